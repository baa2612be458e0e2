"""Real backups over real faults: what was acknowledged must be on the new holder, and the backup must end well."""
