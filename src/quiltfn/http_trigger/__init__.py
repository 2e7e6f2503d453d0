"""HTTP in front of a function: requests become events, results become responses. No I/O.

`target.py`: which path means what. `call.py`: a request as a handler may know it. `event.py` and
`cgi.py`: how it is given to handlers of runners and of shells, and how their answers are read.
`answer.py`: what an answer may hold. `prelude.py`: the head of an answer that is streamed.
`cloudevents.py`, `webhook.py`, `cors.py`: what their names say.
"""
