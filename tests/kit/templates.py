"""Chat templates: what those of the checkpoints come to for plain conversations."""

CHATML = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
REFUSING = (
    "{%- for message in messages %}"
    "{%- if 'REFUSED' in message.content %}{{ raise_exception('No such thing here') }}{%- endif %}"
    "{%- if 'DIVIDED' in message.content %}{{ 1 // 0 }}{%- endif %}"
    "{%- if 'ADDED' in message.content %}{{ message.content + 1 }}{%- endif %}"
    "{%- endfor %}" + CHATML
)
"""ChatML that refuses a message, or fails on it, because of a word."""
QWEN3 = CHATML.removesuffix("{%- endif %}") + (
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
    "{%- endif %}"
)
LLAMA3 = (
    "{{- bos_token }}{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' + message.content | trim + '<|eot_id|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"
)
R1 = (
    "{{- bos_token }}{%- for message in messages %}"
    "{%- if message.role == 'user' %}{{- '<｜User｜>' + message.content }}"
    "{%- elif message.role == 'assistant' %}"
    "{{- '<｜Assistant｜>' + message.content.split('</think>')[-1] + '<｜end▁of▁sentence｜>' }}"
    "{%- else %}{{- message.content }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<｜Assistant｜><think>\\n' }}{%- endif %}"
)
HARMONY = (
    "{{- '<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\\n' }}"
    "{{- 'Knowledge cutoff: 2024-06\\nCurrent date: ' + strftime_now('%Y-%m-%d') + '\\n\\n' }}"
    "{{- 'Reasoning: ' + reasoning_effort | default('medium') + '\\n\\n' }}"
    "{{- '# Valid channels: analysis, commentary, final. Channel must be included for every message.<|end|>' }}"
    "{%- for message in messages %}"
    "{%- if message.role == 'system' %}"
    "{{- '<|start|>developer<|message|># Instructions\\n\\n' + message.content + '<|end|>' }}"
    "{%- else %}"
    "{{- '<|start|>' + message.role + ('<|channel|>final' if message.role == 'assistant' else '') }}"
    "{%- set ends = message.role == 'assistant' and loop.last and not add_generation_prompt %}"
    "{{- '<|message|>' + message.content + ('<|return|>' if ends else '<|end|>') }}"
    "{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start|>assistant' }}{%- endif %}"
)
