"""The functions of a shop and their invocations, for pictures and tests."""

import io
import tarfile
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import httpx

from quiltfn.sdk import AliasShare, Backoff, Client, RollbackRule

THUMBNAIL = '''
import json, sys, time

def handler(event):
    """Makes a thumbnail of a picture."""
    print(f"reading {event['key']}", file=sys.stderr)
    time.sleep(event.get("seconds", 0.012))
    return {"key": event["key"], "width": 320, "height": 240}
'''
PILLOW = "Metadata-Version: 2.4\nName: pillow\nVersion: 11.2.1\n"
FILES = {
    "thumbs.py": THUMBNAIL,
    "README": "The shop's pictures\n",
    "pillow-11.2.1.dist-info/METADATA": PILLOW,
    "pillow-11.2.1.dist-info/RECORD": "",
}
SUITE = r"""printf '\033[1mtests/checkout\033[0m\n'
for name in adds_an_item applies_a_voucher 'keeps the basket after a login'; do
  printf '  \033[32m✓\033[0m %s \033[2m(%d ms)\033[0m\n' "$name" "${#name}"
done
printf '  \033[31m✕ refuses an empty basket\033[0m\n'
printf '    \033[33mexpected 422, got 500\033[0m at basket.py:41\n\n'
printf '\033[42;30m 3 passed \033[0m \033[41;97m 1 failed \033[0m in \033[1m0.4 s\033[0m\n'
echo 'basket service answered slowly' >&2
exit 1
"""
HANDLERS = {
    "send-invoice": ("E-mails the invoice of an order", 'read -r order; echo "sent $order"'),
    "checkout-tests": ("Runs the tests of the checkout", SUITE),
    "price-feed": ("Reads the suppliers' prices", "sleep 0.02; echo '{\"prices\": 1204}'"),
    "charge-card": (
        "Charges a card; the provider is not always there",
        'case $QUILT_PAYLOAD in *declined*) echo "card declined by issuer" >&2; exit 4;; esac\n'
        "echo '{\"charged\": true}'",
    ),
    "nightly-report": (
        "Counts the orders of a day",
        'for hour in 0 6 12 18; do echo "hour $hour: $((hour * 7 + 40)) orders"; done',
    ),
    "order-status": (
        "Says over HTTP where an order is",
        "printf 'Status: 503\\r\\n\\r\\nthe warehouse does not answer\\n'",
    ),
    "search-index": ("Keeps the search index fresh", "sleep ${QUILT_PAYLOAD:-0}; echo indexed"),
}
CUPS = [f"orders/{number}/cup.jpg" for number in (16, 17, 18)]
ENVIRONMENT = {"SHOP_REGION": "eu-west", "MAIL_FROM": "shop@example.com"}


@dataclass(frozen=True)
class Scene:
    """The objects that were created. `functions`: ids by name. `calls`: the part after #/ of the
    address of an invocation's page, by a label such as "timeout".
    """

    functions: Mapping[str, str]
    calls: Mapping[str, str]


def archive_of(files: Mapping[str, str | bytes]) -> bytes:
    """A tar archive of these files."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, text in files.items():
            content = text if isinstance(text, bytes) else text.encode()
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def make_scene(client: Client) -> Scene:
    functions = _functions(client)
    _schedules(client)
    _aliases(client)
    return Scene(functions, _calls(client, functions))


def _functions(client: Client) -> dict[str, str]:
    made = {}
    with tempfile.TemporaryDirectory() as directory:
        archive = Path(directory, "shop.tar")
        archive.write_bytes(archive_of(FILES))
        image = client.runtimes.upload_image(archive)
    client.runtimes.add(name="shop", kind="python", image=image.digest, environment=ENVIRONMENT)
    made["make-thumbnail"] = client.functions.create(
        name="make-thumbnail",
        description="Makes a thumbnail of an uploaded picture",
        handler="thumbs:handler",
        runtime="shop",
        max_instances=8,
    ).function_id
    for name, (description, handler) in HANDLERS.items():
        made[name] = client.functions.create(
            name=name, description=description, handler=handler, environment=ENVIRONMENT
        ).function_id
    for name in made:
        client.functions.set_record_policy(name, keep_input="all")
        client.functions.deploy(name)
    for name in ("checkout-tests", "order-status"):
        client.functions.set_url(name, auth="none")
    return made


def _schedules(client: Client) -> None:
    schedules = client.schedules
    schedules.create(
        name="nightly", function="nightly-report", cron="0 3 * * *", timezone="Europe/Paris"
    )
    schedules.create(name="prices", function="price-feed", every_seconds=900, overlap="skip")
    schedules.create(
        name="weekly-index",
        function="search-index",
        cron="30 4 * * 1",
        timezone="America/New_York",
        missed="run_once",
        enabled=False,
    )
    for name in ("nightly", *(["prices"] * 6)):
        record = client.schedules.run(name)
        client.functions.wait(record.function_id, record.invocation_id)


def _aliases(client: Client) -> None:
    """Create an alias that splits its invocations with a new version, and one that does not."""
    functions = client.functions
    functions.update("charge-card", description="Charges a card, and tries a second provider")
    functions.rollback("charge-card", 1)
    canary = AliasShare(version=2, weight=0.1)
    rule = RollbackRule(error_rate=0.2)
    functions.set_alias("charge-card", "live", version=1, also=canary, rollback_on=rule)
    functions.set_alias("charge-card", "stable", version=1)


def _calls(client: Client, functions: Mapping[str, str]) -> dict[str, str]:
    functions_of, calls = client.functions, {}

    def keep(label: str, name: str, invocation_id: str) -> None:
        calls[label] = f"functions/{functions[name]}/invocations/{invocation_id}"

    def invoke(name: str, payload: object, timeout_seconds: int | None = None) -> str:
        record = functions_of.invoke(name, payload, timeout_seconds=timeout_seconds)
        return record.invocation_id

    # The first invocation occupies the only instance, so the next one finds none that is ready.
    with ThreadPoolExecutor(1) as beside:
        held = beside.submit(invoke, "make-thumbnail", {"key": CUPS[0], "seconds": 4})
        while not functions_of.get_pool("make-thumbnail").busy_count:
            time.sleep(0.05)
        cold = functions_of.invoke("make-thumbnail", {"key": CUPS[1]})
        assert cold.cold_start
        held.result()
    keep("cold", "make-thumbnail", cold.invocation_id)
    invoke("make-thumbnail", {"key": CUPS[2]})
    for number in range(6):
        invoke("make-thumbnail", {"key": f"orders/{number}/plate.jpg"})
        invoke("send-invoice", f"order-{number}")
    keep("success", "send-invoice", invoke("send-invoice", "order-1207"))
    keep("coloured", "checkout-tests", invoke("checkout-tests", None))
    keep("timeout", "search-index", invoke("search-index", "5", timeout_seconds=1))
    keep("failed", "charge-card", invoke("charge-card", {"card": "declined"}))
    functions_of.set_async_policy(
        "charge-card",
        max_attempts=3,
        backoff_seconds=Backoff(first=0.2, factor=1.5, most=1, jitter=0),
    )
    retried = functions_of.submit("charge-card", {"order": 1208, "card": "declined"})
    functions_of.wait("charge-card", retried.invocation_id)
    keep("retried", "charge-card", retried.invocation_id)
    invoke("charge-card", {"order": 1209})
    assert httpx.get(f"{client.base_url}/fn/default/order-status").status_code == 503
    later = functions_of.submit("search-index", "0", not_before=timedelta(hours=1))
    keep("queued", "search-index", later.invocation_id)
    return calls
