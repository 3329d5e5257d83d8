"""Ansible module: an image at a location is there, is current, or is gone."""

from __future__ import annotations

DOCUMENTATION = r"""
module: tfnz_image
short_description: Images of a 20ft location
version_added: "2.0.0"
description:
  - Brings an image to a location from an archive on the target host, or removes it.
  - Needs the command C(tfnz) on the target host, and whoever runs the task may use the location.
options:
  name:
    description: What the image is called, such as V(web:1.2). Without a tag, C(latest) is meant. A digest removes too.
    type: str
    required: true
  src:
    description:
      - Path, on the target host, of what C(docker save) has written, of an OCI layout, or of a tar of a root file system.
      - Needed for O(state=loaded), and for O(state=present) if there is no such image yet.
    type: path
  digest:
    description:
      - The digest that the image must have, beginning with C(sha256:).
      - With it, O(state=present) imports again when the name means another image.
    type: str
  note:
    description:
      - Path, on the target host, of a file in which is noted what was imported last from O(src), and as what.
      - With it, O(state=present) imports again when that was another archive, or none was imported to its end.
    type: path
  state:
    description:
      - V(present) imports only if there is no image of this name, another than O(digest) says, or another archive than O(note)
        says.
      - V(loaded) always imports, and has changed something if the name means another image afterwards.
      - V(absent) takes the name away, and the image with it if that was its last.
    type: str
    choices: [present, loaded, absent]
    default: present
  location:
    description: The location, by the name of an account of the user who runs the task. By default that user's default.
    type: str
  socket:
    description: The unix socket of a node on the target host, in place of O(location).
    type: path
  home:
    description: Directory of the accounts.  By default C(~/.20ft) of the user who runs the task.
    type: path
  bin_dir:
    description: Directory of the command C(tfnz). By default where the role tfnz_node puts it, then the search path.
    type: path
attributes:
  check_mode:
    support: partial
    details: >-
      What O(state=loaded), or another archive than the one noted, would change cannot be known without importing: in check mode it says that nothing changes if
      there is an image of this name.
    description: Says what would change, and changes nothing.
  diff_mode:
    support: full
    description: Shows the name's digest before and after.
  idempotent:
    support: full
    description: A second run changes nothing.
author: the 20ft authors
"""

EXAMPLES = r"""
- name: Have the image of the application at the node of this host
  tfnz_image:
    name: busybox
    src: /srv/images/busybox.tar
    socket: /run/20ft/node.sock

- name: Have what is in an archive there, whenever it was replaced
  tfnz_image:
    name: web:1.2
    src: /srv/images/web.tar
    note: /srv/images/web.tar.note

- name: Have the latest build there, whatever it is
  tfnz_image:
    name: web:latest
    src: /srv/images/web.tar
    state: loaded

- name: Remove an image
  tfnz_image:
    name: web:1.1
    state: absent
"""

RETURN = r"""
image:
  description: The image that the name means afterwards; nothing when there is none.
  returned: always, but in check mode only if it is there already
  type: dict
  sample:
    digest: sha256:4f1e6f4a3f7b
    names: ["busybox:latest"]
    size_bytes: 2150400
    layers: 1
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.tfnz_commands import (
    SESSION_EXCLUSIVE,
    SESSION_OPTIONS,
    Commands,
    describe_change,
    session_arguments,
)
from ansible.module_utils.tfnz_files import replace_files

ARGUMENT_SPEC: dict[str, Any] = {
    "name": {"type": "str", "required": True},
    "src": {"type": "path"},
    "digest": {"type": "str"},
    "note": {"type": "path"},
    "state": {"type": "str", "choices": ["present", "loaded", "absent"], "default": "present"},
    **SESSION_OPTIONS,
}


def full_name(name: str) -> str:
    """A name as lists have it: with a tag; a digest stays what it is."""
    if name.startswith("sha256:") or ":" in name.rsplit("/", 1)[-1]:
        return name
    return f"{name}:latest"


def find_image(images: list[dict[str, Any]], name: str) -> dict[str, Any] | None:
    """The image that a name or digest means."""
    wanted = full_name(name)
    return next((image for image in images if wanted == image["digest"] or wanted in image["names"]), None)


def needs_import(state: str, found: dict[str, Any] | None, digest: str | None, *, known: bool = True) -> bool:
    """Whether an archive must be imported; `known` is whether it is the one that was noted."""
    if state == "absent":
        return False
    return (
        state == "loaded" or found is None or not known or (digest is not None and found["digest"] != digest)
    )


def describe_import(module: Any) -> str | None:
    """What is noted of an import: where to, as what, and which archive; None if there is no archive, or no note."""
    params = module.params
    checksum = module.sha256(params["src"]) if params["note"] and params["src"] else None
    if checksum is None:
        return None
    return " ".join([*session_arguments(params), full_name(params["name"]), checksum]) + "\n"


def is_noted(note: str | None, described: str | None) -> bool:
    """Whether the archive is the one that was imported last, as far as anybody keeps note of it."""
    if note is None or described is None:
        return True
    try:
        return Path(note).read_text() == described
    except (OSError, ValueError):
        return False


def summarise(image: dict[str, Any] | None) -> dict[str, Any] | None:
    """What is told of an image: not all of its configuration."""
    if image is None:
        return None
    return {key: image[key] for key in ("digest", "names", "size_bytes", "layers")}


def main() -> None:
    module = AnsibleModule(
        argument_spec=ARGUMENT_SPEC,
        supports_check_mode=True,
        mutually_exclusive=SESSION_EXCLUSIVE,
        required_if=[("state", "loaded", ["src"])],
    )
    name, src, digest, state = (module.params[key] for key in ("name", "src", "digest", "state"))
    tfnz = Commands(module)
    before = find_image(tfnz.session("image", "ls"), name)
    after = before
    described = describe_import(module)
    if needs_import(state, before, digest, known=is_noted(module.params["note"], described)):
        if src is None:
            why = "there is none" if before is None else f"it means {before['digest']}, and not {digest}"
            module.fail_json(msg=f"image {name!r} must be imported, since {why}: say from where with src")
        if module.check_mode:
            changed = before is None or (digest is not None and before["digest"] != digest)
            module.exit_json(
                changed=changed, image=summarise(before), diff=diff(name, before, None, digest or src)
            )
        after = tfnz.session("image", "import", src, "--name", name)
        if digest is not None and after["digest"] != digest:
            module.fail_json(
                msg=f"{src} holds the image {after['digest']}, and not {digest}: it has been imported as {name!r} "
                "nevertheless; give another src or digest",
                image=summarise(after),
            )
        if described is not None:
            keep_note(module, described)
    elif state == "absent" and before is not None:
        after = None
        if not module.check_mode:
            tfnz.change("tfnz", *session_arguments(module.params), "image", "rm", name)
    changed = (before or {}).get("digest") != (after or {}).get("digest")
    module.exit_json(changed=changed, image=summarise(after), diff=diff(name, before, after))


def keep_note(module: Any, described: str) -> None:
    note = module.params["note"]
    try:
        replace_files({Path(note): described})
    except OSError as exc:
        module.fail_json(msg=f"{note} cannot be written: {exc.strerror or exc}; the image has been imported")


def diff(
    name: str, before: dict[str, Any] | None, after: dict[str, Any] | None, expected: str = ""
) -> dict[str, Any]:
    """The change as --diff shows it; `expected` stands for an image that is not there yet."""
    new = after["digest"] if after else expected
    return dict(describe_change(f"{before['digest'] if before else ''}\n", f"{new}\n", name))


if __name__ == "__main__":
    main()
