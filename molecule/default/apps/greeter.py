"""An application for the scenario: a web server in a container, reached through a tunnel, until it is stopped."""

from __future__ import annotations

import os
import sys

from tfnz import Location


def main() -> None:
    port = int(sys.argv[1])
    with Location() as location:
        web = location.node().spawn(
            "busybox",
            "exec httpd -f -p 80 -h /srv",
            pre_boot_files={"/srv/index.html": f"{os.environ['GREETING']} from {os.environ['RELEASE']}\n"},
            tag=f"greeter-{port}",
            # Whoever ends the container ends the application, which systemd then starts again.
            termination_callback=location.complete,
        )
        web.wait_tcp(80)
        web.attach_tunnel(80, localport=port)
        print(f"serving on {port}", flush=True)
        location.run()


main()
