#!/bin/bash
# Time goes on for a server whose microVM is paused between requests: gunicorn would take a worker
# that has not been heard of for so long for dead.
exec python3 -m gunicorn --bind "127.0.0.1:$AWS_LWA_PORT" --timeout 0 --no-control-socket app:app
