"""Training examples: the exact ids that the student has before it when it writes, and whose each token is."""

PARTS = ("context", "style", "capability", "answer", "assistant")
"""What a token is; its code is its index.

`context`: the prompt, never trained. `style`: thinking that the student wrote; `capability`: thinking that the teacher
wrote. `answer`: the student's answer, what stands between thinking and answer, and the token that ends the turn.
`assistant`: an assistant's text of an author who is not known (foreign data).
"""

CONTEXT, STYLE, CAPABILITY, ANSWER, ASSISTANT = range(len(PARTS))
