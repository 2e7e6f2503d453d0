"""HTTP in front of a function: requests become events, results become responses. No I/O.

`target.py`: the paths of URLs. `call.py`: the parts of a request that a handler may see. `event.py`
and `cgi.py`: requests and responses of handlers in runners and in shells. `answer.py`: the rules
for responses. `prelude.py`: the head of a streamed response. `cloudevents.py`, `webhook.py`,
`cors.py`: CloudEvents, signatures of webhooks, and CORS.
"""
