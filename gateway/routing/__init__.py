"""Where a request goes: services, the table that matches paths, the choice among endpoints."""
