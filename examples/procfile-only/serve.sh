#!/bin/sh
# Serves the folder public/ with the Python that every stack has.
echo "serving public/ on port $PORT"
exec python3 -u -m http.server "$PORT" --directory public
