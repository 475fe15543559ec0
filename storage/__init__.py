"""Bytes on disk: film readers, schemas, shards, the manifest. Imports no other package of ours."""
