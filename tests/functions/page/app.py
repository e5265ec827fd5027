"""A page that tries what a page of a function must not be able to do, and reports what came of it."""

PAGE = """<!doctype html><title>a function's page</title><script>
const parameters = new URLSearchParams(location.search);
const attempt = async (what) => {
  try { return String(await what()); } catch (error) { return "failed: " + error.name; }
};
(async () => {
  const told = {
    origin: self.origin,
    api: await attempt(async () => (await fetch(parameters.get("api"))).text()),
    deleted: await attempt(async () =>
      (await fetch(parameters.get("api") + "/victim", { method: "DELETE" })).status),
    worker: await attempt(async () =>
      (await navigator.serviceWorker.register("sw.js")).scope),
    cookie: await attempt(() => { document.cookie = "a=1"; return document.cookie; }),
    storage: await attempt(() => { localStorage.a = 1; return localStorage.a; }),
  };
  await fetch(parameters.get("report"), {
    method: "POST", mode: "no-cors", body: JSON.stringify(told),
  });
})();
</script>"""


def handler(event, context):
    script = event["rawPath"].endswith("/sw.js")
    return {
        "statusCode": 200,
        "headers": {
            "Content-Type": "text/javascript" if script else "text/html",
            "Service-Worker-Allowed": "/",
        },
        "body": "self.addEventListener('fetch', () => {});" if script else PAGE,
    }
