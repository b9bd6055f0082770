"""An OpenAI-compatible server over the engine: a tenant is a model name; tenants come and go on a port of their own.

    serve            one process: model, deltas, engine thread, two ports, signals
    app, admin       the routes of the two ports
    schemas          what may be asked, checked by pydantic; all else is refused by name
    completions, chat  a call of either kind: its prompts, its answer's form
    submission       from the engine's thread to the event loop and back (cancel)
    answer           events of the engine -> choices, reasons, usage
    token_text, branch_text  tokens -> text: whole characters, no part of a stop string
    stream           server-sent events, slow readers, disconnects
    models           who is served under which name, and what waits for whom
    limits, api_errors, metrics  what is bounded, how a refusal looks, what is counted

Source: platform.openai.com/docs/api-reference as the `openai` client speaks it; metrics named as vLLM names them.
"""
