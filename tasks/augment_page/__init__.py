"""The page of an augmentation: its HTML and style, for `tasks.augment_reports`."""
