"""Where layers and the containers' own files lie: a btrfs with quotas, or a plain directory without."""
