def handler(event, context):
    if event == "fail":
        raise ValueError("on purpose")
    return event
