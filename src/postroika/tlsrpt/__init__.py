"""TLS reports (RFC 8460): how sessions with the hosts of a domain went, counted, and told to the domain once a day.

`recorder` counts in each worker, `days` keeps the counts on disk, `reporter` makes the reports of a day (`record`,
`report`) and sends them by mail (`message`) or over HTTPS (`post`).
"""
