"""The provider names that LiteLLM 1.106.2 knows, sorted by the client object that its dispatch takes.

Kept as data so that a misspelt prefix gets its closest name without importing LiteLLM. Found by
calling each name with each client on a transport that answers nothing else; a test compares the
names with LiteLLM's own list and the kinds with what it does.
"""

from __future__ import annotations


def names(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


OPENAI_CLIENT = names("""
    abliteration ai21 ai21_chat aihubmix aiml apertis assemblyai baseten cerebras charity_engine chutes clarifai
    codestral cognition cortecs crusoe custom_openai darkbloom dashscope deepinfra docker_model_runner empiriolabs
    empower featherless_ai friendliai galadriel github gmi helicone hyperbolic inception lambda_ai libertai
    litellm_proxy llamafile llamagate lm_studio meta meta_llama modelscope moonshot morph nano-gpt nebius neosantara
    novita nscale nvidia_nim openai parasail perplexity pinstripes poe prism publicai qwen_ai_platform qwencloud
    reka sail sambanova sarvam scaleway scx-ai synthetic tencent tensormesh v0 veniceai vercel_ai_gateway volcengine
    wandb xiaomi_mimo xinference zai
""")

HANDLER_CLIENT = names("""
    a2a aiohttp_openai anthropic azure_ai bedrock bedrock_mantle bytez cometapi compactifai databricks datarobot
    deepseek edenai fal_ai fireworks_ai gdc gemini groq heroku hosted_vllm infinity jina_ai langflow langgraph minimax
    mistral nadir oci ollama ollama_chat openrouter ovhcloud ragflow sagemaker_chat sagemaker_nova snowflake
    together_ai vertex_ai vertex_ai_beta voyage watsonx watsonx_text xai
""")

OPENAI_WIRE_BY_HANDLER = names("""
    aiohttp_openai azure_ai bedrock_mantle cometapi compactifai databricks datarobot deepseek edenai fireworks_ai groq
    heroku hosted_vllm minimax mistral nadir openrouter ovhcloud ragflow together_ai xai
""")

OPENAI_CLIENT_FOR_EMBEDDINGS = names("""
    azure_ai fireworks_ai litellm_proxy mistral nebius nvidia_nim openai together_ai wandb xinference
""")

OWN_CLIENT = names("""
    amazon_nova anthropic_text chatgpt cloudflare cohere cohere_chat custom gigachat github_copilot gradient_ai
    huggingface lemonade maritalk nlp_cloud oobabooga petals predibase replicate sagemaker sap
    text-completion-codestral triton vllm
""")
"""Reached through a client (or a log-in) of LiteLLM's own, whatever client it is given."""

NO_CHAT = names("""
    a2a_agent auto_router aws_polly aws_textract azure_speech black_forest_labs cursor deepgram dotprompt elevenlabs
    humanloop langfuse litellm_agent manus milvus mongodb nvidia_riva openai_like pg_vector recraft reducto runwayml
    s3_vectors soniox stability strands_decider text-completion-inception text-completion-openai topaz transcribe
    typesafe valkey
""")
"""Speech, images, stores, agents and legacy completions: no chat and no embeddings that we can ask for."""

AZURE_CLIENT = frozenset({"azure", "azure_text"})

KNOWN = OPENAI_CLIENT | HANDLER_CLIENT | OWN_CLIENT | NO_CHAT | AZURE_CLIENT
