"""Whole journeys over real sockets: a raw client, the gateway, a scripted upstream."""
