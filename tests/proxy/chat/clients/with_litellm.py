"""MODEL MESSAGES MAX_TOKENS: one answer whole and one as a stream, by litellm as it is installed."""

import json
import sys

import litellm

model, messages, most = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
asked = {"model": f"openai/{model}", "messages": messages, "max_tokens": most}
whole = litellm.completion(**asked)
pieces = [chunk.choices[0].delta.content or "" for chunk in litellm.completion(**asked, stream=True) if chunk.choices]
choice = whole.choices[0]
answer = {
    "text": choice.message.content,
    "finish_reason": choice.finish_reason,
    "completion_tokens": whole.usage.completion_tokens,
}
print(json.dumps({"whole": answer, "pieces": pieces}))
