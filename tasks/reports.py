"""Stage: the report (being written)."""


def write_report(workspace_uri: str, run_id: str, *, exemplars: str | None = None) -> str:
    """Return the report's path."""
    return f"{workspace_uri}/report/index.html"
