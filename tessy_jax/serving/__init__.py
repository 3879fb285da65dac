"""A model, or a pair, behind OpenAI's API, on our engine (docs/serve.md).

app       HTTP: routes, key, sizes of bodies, streams
bodies    what a request may say, and what it asks the engine for
replies   the JSON of answers
logprobs  what is asked of tokens, and what is told of them
scorer    how likely the model finds texts
pair      a pair that writes together: its requests, its text with the authors, its answers
page      the page at /: chat.html, chat.css, chat.js
service   the engine in a thread of its own: requests join a running batch
text      a row's bytes as thinking and answer, up to a stop string
"""
