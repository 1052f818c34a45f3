"""Server-sent events for any asyncio server: events, rings, streams, a hub. Imports nothing from
`gateway`.

Nothing is here yet: the gateway so far proxies the event streams of the services behind it.
"""
