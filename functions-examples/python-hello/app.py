"""Greets, and tells what Lambda told it about the invocation. Standard library only."""

import platform


def handler(event, context):
    name = event.get("name", "world") if isinstance(event, dict) else "world"
    print(f"greeting {name}")
    return {
        "greeting": f"Hello, {name}!",
        "request_id": context.aws_request_id,
        "remaining_ms": context.get_remaining_time_in_millis(),
        "function": context.function_name,
        "memory_mb": int(context.memory_limit_in_mb),
        "python": platform.python_version(),
        "kernel": platform.release(),
    }
