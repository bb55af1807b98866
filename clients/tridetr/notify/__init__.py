"""Messages to people about visits: what they say, and how they get to webhooks, ntfy and Apprise."""
