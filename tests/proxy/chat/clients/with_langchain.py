"""MODEL MESSAGES MAX_TOKENS: one answer whole and one as a stream, by langchain-openai as it is installed."""

import json
import sys

from langchain_openai import ChatOpenAI

model, messages, most = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
chat = ChatOpenAI(model=model, max_completion_tokens=most)
whole = chat.invoke(messages)
pieces = [chunk.content for chunk in chat.stream(messages)]
assert whole.usage_metadata is not None
answer = {
    "text": whole.content,
    "finish_reason": whole.response_metadata["finish_reason"],
    "completion_tokens": whole.usage_metadata["output_tokens"],
}
print(json.dumps({"whole": answer, "pieces": pieces}))
