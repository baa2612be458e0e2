"""The repository measured beside rest-server and rclone, in one run."""
