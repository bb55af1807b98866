"""Notifications: their content, and their delivery through webhooks, ntfy and Apprise."""
