"""What the words mean with which providers say why an answer ended: one table for all wires."""

from __future__ import annotations

from testronaut_llm.errors import (
    BadResponseError,
    ContentFilteredError,
    ContextWindowError,
    LLMError,
    LLMTimeoutError,
    OverloadedError,
    ServerError,
)

_ROWS: tuple[tuple[str, str | type[LLMError]], ...] = (  # OpenAI's word, or the error that such an end is
    # OpenAI and its like; Hugging Face and Together; Cohere; Baidu; Anthropic
    ("stop eos eos_token complete normal end_turn stop_sequence", "stop"),
    ("length max_tokens", "length"),
    ("tool_calls function_call tool_call tool_use", "tool_calls"),
    # OpenAI; Azure; Zhipu; Bedrock; Anthropic; Cohere
    ("content_filter content_filtered sensitive guardrail_intervened refusal error_toxic", ContentFilteredError),
    # Gemini and Vertex; `blocked` is ours, for a prompt that Gemini answers with no candidate
    ("safety recitation language blocklist prohibited_content spii model_armor blocked", ContentFilteredError),
    ("escalation image_safety image_prohibited_content image_recitation", ContentFilteredError),
    # Anthropic, Bedrock and Zhipu; Mistral; Cohere
    ("model_context_window_exceeded model_length error_limit", ContextWindowError),
    # OpenRouter, Mistral, Cohere and vLLM; Zhipu; vLLM and SGLang; Cohere; Gemini; Bedrock
    ("error network_error abort user_cancel other malformed_response malformed_model_output", ServerError),
    ("insufficient_system_resource", OverloadedError),  # DeepSeek
    ("timeout", LLMTimeoutError),  # Cohere
    # A tool that was never offered (Gemini, Bedrock), a turn that is to be continued (Anthropic)
    ("malformed_function_call unexpected_tool_call too_many_tool_calls malformed_tool_use", BadResponseError),
    ("missing_thought_signature no_image image_other pause_turn compaction", BadResponseError),
    ("load unload", BadResponseError),  # Ollama has loaded or unloaded the model, and asked it nothing
)
_MEANINGS = {word: meaning for words, meaning in _ROWS for word in words.split()}
_REASONS: dict[type[LLMError], str] = {
    BadResponseError: "the model did not answer",
    ContentFilteredError: "the answer was withheld",
    ContextWindowError: "the context window was full before the answer was complete",
}


def in_openai_words(word: str) -> str:
    """Returns OpenAI's word for a finish word of any wire; the word itself where there is none."""
    meaning = _MEANINGS.get(word.lower())
    if meaning is ContentFilteredError:
        return "content_filter"
    return meaning if isinstance(meaning, str) else word


def failure_of(word: str) -> LLMError | None:
    """Returns the error that a finish word reports; None where it may end an answer, or nobody knows it."""
    kind = _MEANINGS.get(word.lower())
    if not isinstance(kind, type):
        return None
    return kind(f"{_REASONS.get(kind, 'the generation failed')}: finish reason {word}")
