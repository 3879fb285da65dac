"""Fields in which rows of the usual shapes hold prompts, conversations and answers; the first that is there counts."""

CONVERSATION_FIELDS = ("messages", "dialogs", "conversations")
"""A whole conversation, its answer included."""

PROMPT_FIELDS = ("messages", "prompt", "dialogs", "question", "conversations")
"""The prompt, in a conversation or for itself."""

RESPONSE_FIELDS = ("response", "completion", "content", "answer")
"""The answer to a prompt that stands for itself."""
