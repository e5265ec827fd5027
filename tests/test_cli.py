"""What people type: `hearth` and the AWS CLI."""

import contextlib
import json
import os
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request

import pytest
from harness import host, layout, package
from harness.command import AWS_CLIS, hearth, run
from harness.deadline import until
from harness.invocation import ROLE

#: A runtime in shell: quick to deploy, and its answer is a line of its source.
SHELL = """#!/bin/busybox sh
api="http://$AWS_LAMBDA_RUNTIME_API/2018-06-01/runtime"
while :; do
  id=$(busybox wget -q -S -Y off -O /tmp/event "$api/invocation/next" 2>&1 |
    busybox sed -n 's/.*[Rr]equest-[Ii]d: *//p' | busybox tr -d '\\r')
  echo "called"
  busybox wget -q -Y off -O /dev/null --post-data '"ANSWER"' "$api/invocation/$id/response"
done
"""


def shell_function(folder, answer="one"):
    folder.mkdir(exist_ok=True)
    program = folder / "bootstrap"
    program.write_text(SHELL.replace("ANSWER", answer))
    program.chmod(0o755)
    # Each program that the shell starts takes an interpreted kernel a third of a second of CPU time.
    settings = 'runtime = "provided"\nhandler = "bootstrap"\ntimeout = 60\n'
    (folder / "hearth.toml").write_text(settings)
    return folder


def test_deploy_invoke_logs_ls_and_rm(controller, tmp_path):
    folder = shell_function(tmp_path / "tour")
    hearth(controller, "deploy", folder, "--env", "STAGE=test", "--timeout", "9").ok()
    first = hearth(controller, "invoke", "tour", "-d", "{}")
    assert first.ok().strip() == '"one"'
    assert "cold" in first.err
    # A shell takes its time to ask for the next event.
    controller.idle("tour")
    second = hearth(controller, "invoke", "tour", "-d", "-", given='{"from":"stdin"}')
    assert second.ok().strip() == '"one"'
    assert "warm" in second.err
    assert re.search(r"[0-9a-f]{8}-[0-9a-f]{4}", second.err), "no request id"
    assert "called" in hearth(controller, "logs", "tour").ok()
    listed = hearth(controller, "ls").ok()
    assert "tour" in listed and "provided" in listed
    assert "tour" in hearth(controller, "ls", "--instances").ok()
    hearth(controller, "rm", "tour").ok()
    assert "tour" not in hearth(controller, "ls").ok()


def test_json_is_for_programs(controller, tmp_path):
    folder = shell_function(tmp_path / "machine")
    deployed = hearth(controller, "deploy", folder, "--name", "machine", "--json").json()
    assert "machine" in json.dumps(deployed)
    functions = hearth(controller, "ls", "--json").json()
    assert "machine" in [f["FunctionName"] for f in functions]
    hearth(controller, "invoke", "machine").ok()
    instances = hearth(controller, "ls", "--instances", "--json").json()
    assert "machine" in [i["function"] for i in instances]
    records = [
        json.loads(r) for r in hearth(controller, "logs", "machine", "--json").ok().splitlines()
    ]
    assert "called" in [r["message"].strip() for r in records]


def test_a_redeploy_replaces_the_code(controller, tmp_path):
    folder = shell_function(tmp_path / "again", "one")
    hearth(controller, "deploy", folder).ok()
    assert hearth(controller, "invoke", "again").ok().strip() == '"one"'
    shell_function(folder, "two")
    hearth(controller, "deploy", folder).ok()
    assert hearth(controller, "invoke", "again").ok().strip() == '"two"'


def test_a_rollback_says_that_init_did_not_run(controller, tmp_path):
    folder = shell_function(tmp_path / "back", "one")
    assert "init did not run" not in hearth(controller, "deploy", folder).ok()
    shell_function(folder, "two")
    assert "init did not run" not in hearth(controller, "deploy", folder).ok()
    shell_function(folder, "one")
    assert "init did not run: there was a snapshot" in hearth(controller, "deploy", folder).ok()
    assert hearth(controller, "invoke", "back").ok().strip() == '"one"'
    shell_function(folder, "two")
    assert hearth(controller, "deploy", folder, "--json").json()["snapshot_reused"] is True
    # Of a deploy that had nothing to do it would not be true.
    assert hearth(controller, "deploy", folder, "--json").json()["snapshot_reused"] is False
    assert hearth(controller, "invoke", "back").ok().strip() == '"two"'


def test_a_deploy_with_an_alias_is_released_and_an_older_release_serves_until_then(
    controller, tmp_path
):
    folder = shell_function(tmp_path / "released", "one")
    said = hearth(controller, "deploy", folder, "--timeout", "60", "--alias", "live").ok()
    assert "released:live is version 1" in said
    shell_function(folder, "two")
    hearth(controller, "deploy", folder).ok()
    assert hearth(controller, "invoke", "released:live").ok().strip() == '"one"'
    again = hearth(controller, "deploy", folder, "--alias", "live", "--json").json()
    assert (again["version"], again["alias"]) == ("2", "live")
    assert hearth(controller, "invoke", "released:live").ok().strip() == '"two"'
    assert hearth(controller, "invoke", "released:1").ok().strip() == '"one"'


def slow_init(folder):
    """A function whose init does not end."""
    shell_function(folder)
    program = folder / "bootstrap"
    text = program.read_text().replace(
        "while :; do", "echo loading\nbusybox sleep 600\nwhile :; do"
    )
    program.write_text(text)
    return folder


@contextlib.contextmanager
def deploy_in_background(controller, folder):
    """`hearth deploy` as a process whose messages the test reads."""
    process = subprocess.Popen(
        [layout.HEARTH, "deploy", folder],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HEARTH_ENDPOINT": controller.url},
    )
    try:
        yield process
    finally:
        process.kill()


def is_in_init(controller, name):
    def look():
        listed = hearth(controller, "ls")
        return "init of the function" in listed.err and name in listed.out

    return until(f"{name} is in its init", look, 200)


def test_ctrl_c_says_that_a_deploy_goes_on_and_ls_says_what_it_does(controller, tmp_path):
    folder = slow_init(tmp_path / "endless")
    with deploy_in_background(controller, folder) as process:
        is_in_init(controller, "endless")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "goes on in the controller" in said and "hearth rm endless" in said
    refused = hearth(controller, "invoke", "endless")
    assert refused.status == 1 and "init of the function" in refused.err
    hearth(controller, "rm", "endless").ok()


def test_a_function_that_is_deleted_while_it_is_deployed_is_told_as_that(controller, tmp_path):
    with deploy_in_background(controller, slow_init(tmp_path / "removed")) as process:
        is_in_init(controller, "removed")
        hearth(controller, "rm", "removed").ok()
        _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "removed was deleted while it was being deployed" in said
    # A pipe hears of a long wait from time to time.
    assert len([line for line in said.splitlines() if "init of the function" in line]) <= 20


def test_a_deploy_can_be_given_up_and_the_function_deployed_again(controller, tmp_path):
    folder = slow_init(tmp_path / "renewed")
    with deploy_in_background(controller, folder) as process:
        is_in_init(controller, "renewed")
        request = urllib.request.Request(
            f"{controller.url}/hearth/v1/functions/renewed/deploy", method="DELETE"
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert answer.status == 204
        _, said = process.communicate(timeout=60)
    assert process.returncode == 3 and "given up" in said
    shell_function(folder, "again")
    hearth(controller, "deploy", folder).ok()
    assert hearth(controller, "invoke", "renewed").ok().strip() == '"again"'
    hearth(controller, "rm", "renewed").ok()


def test_a_failed_deploy_shows_its_own_log_and_what_serves_is_marked(controller, tmp_path):
    folder = shell_function(tmp_path / "fails", "one")
    hearth(controller, "deploy", folder).ok()
    assert hearth(controller, "invoke", "fails").ok().strip() == '"one"'
    (folder / "bootstrap").write_text("#!/bin/busybox sh\necho broken on purpose\nexit 3\n")
    failed = hearth(controller, "deploy", folder)
    assert failed.status == 1
    assert "  | broken on purpose" in failed.err
    assert "START RequestId" not in failed.err and "called" not in failed.err
    listed = hearth(controller, "ls")
    assert "(not serving)" in listed.ok()
    assert "fails: the last update failed" in listed.err
    assert hearth(controller, "invoke", "fails").ok().strip() == '"one"'


def test_code_that_can_not_come_up_is_refused_before_a_deploy_begins(controller, tmp_path):
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "app.py").write_text("def handler(event, context)\n    return 1\n")
    refused = hearth(controller, "deploy", folder)
    assert refused.status == 1 and "app.py, line 1" in refused.err
    (folder / "app.py").write_text("def main(event, context):\n    return 1\n")
    refused = hearth(controller, "deploy", folder, "--handler", "app.handler")
    assert refused.status == 1 and "it has: main" in refused.err
    assert "hint: --handler app.main" in refused.err
    assert "broken" not in hearth(controller, "ls").out


def test_a_throttle_names_the_reserved_concurrency(controller, client):
    client.put_function_concurrency(FunctionName="guest", ReservedConcurrentExecutions=0)
    try:
        refused = hearth(controller, "invoke", "guest")
    finally:
        client.delete_function_concurrency(FunctionName="guest")
    assert refused.status == 1
    assert "guest is throttled: its reserved concurrency is 0" in refused.err


def test_a_log_without_a_match_says_so_and_the_newest_are_shown_alone(controller, client):
    hearth(controller, "invoke", "guest").ok()
    nothing = hearth(controller, "logs", "guest", "--contains", "no such text")
    assert nothing.ok() == "" and "no records" in nothing.err
    assert len(hearth(controller, "logs", "guest", "-n", "2").ok().splitlines()) == 2


def test_exit_codes_tell_whose_fault_it_is(controller, client, tmp_path):
    assert hearth(controller, "ls").status == 0
    assert hearth(controller, "invoke", "nobody").status == 1
    assert hearth(controller, "rm", "nobody").status == 1
    assert hearth(controller, "deploy", tmp_path / "no-such-folder").status == 1
    assert hearth(controller, "invoke", "guest", "-d", "not json").status == 1
    gone = run(layout.HEARTH, "ls", "--endpoint-url", "http://127.0.0.1:9")
    assert gone.status == 3
    assert "127.0.0.1:9" in gone.err


def test_a_function_error_exits_1_with_the_error_on_stdout(controller, client):
    done = hearth(controller, "invoke", "guest", "-d", '{"op":"exit","n":4}')
    assert done.status == 1
    assert json.loads(done.out)["errorType"] == "Runtime.ExitError"


def test_a_limit_for_one_invocation_can_be_given(controller, client):
    done = hearth(
        controller, "invoke", "guest", "-d", '{"op":"sleep","n":9000}', "--timeout-ms", "500"
    )
    assert done.status == 1
    assert "timed out after 0.50 seconds" in done.out


def test_no_colour_when_piped(controller, client):
    done = hearth(controller, "ls", "--instances")
    assert "\x1b[" not in done.ok() + done.err


def test_doctor_finds_this_machine_ready():
    done = run(layout.HEARTH, "doctor", "--json")
    report = json.loads(done.out)
    assert done.status == 0, report
    assert "kvm" in json.dumps(report).lower()
    assert run(layout.HEARTH, "doctor").status == 0


def test_help_names_every_command():
    told = run(layout.HEARTH, "--help").ok()
    for command in (
        "serve",
        "deploy",
        "invoke",
        "logs",
        "ls",
        "rm",
        "dev",
        "keys",
        "backup",
        "restore",
        "doctor",
    ):
        assert command in told
        assert run(layout.HEARTH, command, "--help").ok()


@pytest.fixture
def dev(template, tmp_path):
    """`hearth dev` on a folder with a function in shell, its data prepared: the folder, its log, its
    process."""
    before = host.Host.now()
    folder = shell_function(tmp_path / "devved", "one")
    data = tmp_path / "data"
    subprocess.run(["cp", "-a", "--sparse=always", str(template), str(data)], check=True)
    with (tmp_path / "dev.log").open("wb") as log:
        process = subprocess.Popen(
            [
                layout.HEARTH,
                "dev",
                folder,
                "--listen",
                "127.0.0.1:0",
                "--data-dir",
                data,
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "NO_COLOR": "1"},
        )
    try:
        yield folder, tmp_path / "dev.log", process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        finally:
            process.kill()
    host.assert_nothing_left(before)


def ask(url, headers=()):
    request = urllib.request.Request(url, data=b"{}", headers=dict(headers))
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.loads(answer.read())


def test_dev_serves_the_folder_and_never_answers_with_stale_code(dev):
    folder, log, process = dev

    def address():
        assert process.poll() is None, log.read_text()
        return re.search(r"http://127\.0\.0\.1:\d+/(?=[\s,])", log.read_text())

    url = until("the development server says where it listens", address, 120)[0]

    def up():
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(OSError):
            return ask(url)
        return None

    assert until("the development server answers", up, 120) == "one"
    for answer in ("two", "three"):
        shell_function(folder, answer)
        # The change is seen by inotify, a moment after the write; from then on nothing stale.
        until(f"the answer is {answer}", lambda answer=answer: ask(url) == answer, 60)
        assert ask(url) == answer
    for header in (
        {"Host": "evil.example"},
        {"Origin": "http://evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
    ):
        with pytest.raises(urllib.error.HTTPError) as refused:
            ask(url, header)
        assert refused.value.code == 403, header
    assert process.poll() is None
    lines = log.read_text().splitlines()
    assert sum("200" in line for line in lines) >= 3, lines


@pytest.mark.parametrize("version", AWS_CLIS)
def test_the_aws_cli_is_of_both_versions(version):
    assert AWS_CLIS[version].version().startswith(f"aws-cli/{version}.")


def test_the_aws_cli_creates_invokes_lists_and_deletes(aws, controller, guest_package, tmp_path):
    archive = tmp_path / "function.zip"
    archive.write_bytes(guest_package)
    created = aws(
        controller,
        "create-function",
        *("--function-name", "by-aws", "--runtime", "provided", "--handler", "bootstrap"),
        *("--role", ROLE, "--zip-file", f"fileb://{archive}", "--timeout", "20"),
        *("--environment", "Variables={TAG=aws}"),
    ).json()
    assert created["FunctionName"] == "by-aws"
    aws(controller, "wait", "function-active-v2", "--function-name", "by-aws").ok()
    out = tmp_path / "out.json"
    invoked = aws(
        controller,
        "invoke",
        *("--function-name", "by-aws", "--payload", '{"op":"who"}', "--log-type", "Tail"),
        *(*aws.text, str(out)),
    ).json()
    assert invoked["StatusCode"] == 200
    assert invoked["ExecutedVersion"] == "$LATEST"
    assert json.loads(out.read_text())["env"] == "aws"
    names = [f["FunctionName"] for f in aws(controller, "list-functions").json()["Functions"]]
    assert "by-aws" in names
    renewed = tmp_path / "renewed.zip"
    renewed.write_bytes(
        package.archive({"bootstrap": package.compiled(guest_package), "tag": b"renewed"})
    )
    aws(
        controller,
        "update-function-code",
        *("--function-name", "by-aws", "--zip-file", f"fileb://{renewed}"),
    ).ok()
    aws(controller, "wait", "function-updated-v2", "--function-name", "by-aws").ok()
    invoke = ("invoke", "--function-name", "by-aws", *aws.text)
    aws(controller, *invoke, "--payload", '{"op":"who"}', str(out)).ok()
    assert json.loads(out.read_text())["code"] == "renewed"
    published = aws(controller, "publish-version", "--function-name", "by-aws").json()
    words = ("--function-name", "by-aws", "--name", "live", "--function-version")
    alias = aws(controller, "create-alias", *words, published["Version"]).json()
    assert alias["AliasArn"].endswith(":by-aws:live")
    aws(controller, "wait", "published-version-active", "--function-name", "by-aws:live").ok()
    sent = aws(controller, *invoke, "--qualifier", "live", "--payload", '{"op":"echo"}', str(out))
    assert sent.json() == {"StatusCode": 200, "ExecutedVersion": published["Version"]}
    sent = aws(controller, *invoke, "--invocation-type", "Event", "--payload", "{}", str(out))
    assert sent.json() == {"StatusCode": 202}
    failed = aws(controller, *invoke, "--payload", "{", str(out))
    assert failed.status != 0 and "InvalidRequestContentException" in failed.err
    aws(controller, "delete-function", "--function-name", "by-aws").ok()
    missing = aws(controller, "get-function", "--function-name", "by-aws")
    assert missing.status != 0
    assert "ResourceNotFoundException" in missing.err


def test_serve_starts_a_controller_and_sigint_ends_it(tmp_path):
    before = host.Host.now()
    data = tmp_path / "data"
    process = subprocess.Popen(
        [layout.HEARTH, "serve", "--listen", "127.0.0.1:0", "--data-dir", data],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        address = until(
            "it says where it listens",
            lambda: (
                (data / "hearthd.addr").exists() and (data / "hearthd.addr").read_text().strip()
            ),
        )
        listed = run(layout.HEARTH, "ls", "--json", "--endpoint-url", f"http://{address}")
        assert listed.json() == []
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        assert time.monotonic() - began < 20
    finally:
        process.kill()
    host.assert_nothing_left(before)
