"""Checks of the built site; `make book` runs them after the build, and the build fails if they do.

They are not collected by `make test`, which does not need a site; test_site.py tests the checks themselves.
"""

import re
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup
from chapters import ROOT, chapters, claims, markdown, pages

pytestmark = pytest.mark.xdist_group("site")  # one process reads all pages, once

SITE = ROOT / "_build" / "html"
MOST = 25_000_000  # bytes of the whole site
RESOURCES = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src", "video": "src"}
MARKUP = re.compile(r"\{(prf|py|eq|cite|doc|ref|numref|dropdown|admonition|math)(:\w+)*\}|:::|\$\$")


@cache
def page(path: Path) -> BeautifulSoup:
    """Return a parsed page."""
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


@cache
def resources(path: Path) -> list[str]:
    """Return the addresses of all that a browser loads with a page."""
    tags = page(path).find_all([*RESOURCES])
    return [tag[RESOURCES[tag.name]] for tag in tags if tag.has_attr(RESOURCES[tag.name])]


@cache
def anchors(path: Path) -> set[str]:
    """Return the anchors that links into a page can point to."""
    return {tag[key] for key in ("id", "name") for tag in page(path).find_all(attrs={key: True})}


def is_remote(address: str) -> bool:
    """Say whether a browser would ask the network for an address."""
    return address.startswith("//") or urlsplit(address).scheme in ("http", "https")


def dead_links(path: Path) -> list[str]:
    """Return the links and resources of a page that lead to no file or no anchor of the site."""
    found = []
    for address in [tag["href"] for tag in page(path).find_all("a", href=True)] + resources(path):
        url = urlsplit(address)
        if url.scheme or url.netloc or address == "#":
            continue
        target = (path.parent / unquote(url.path)).resolve() if url.path else path
        if not target.is_file():
            found.append(f"{address}: no such file")
        elif url.fragment and target.suffix == ".html" and unquote(url.fragment) not in anchors(target):
            found.append(f"{address}: no such anchor")
    return found


def network_requests(path: Path) -> list[str]:
    """Return what a page would load from the network, by its tags or by addresses in its scripts."""
    found = [address for address in resources(path) if is_remote(address)]
    for script in page(path).find_all(["script", "style"]):
        found += re.findall(r"https?://[^\s\"'`)]+", script.string or "")
    return found


def wrong_outputs(path: Path) -> list[str]:
    """Return contents that no page should show: errors, NaNs in outputs, Markdown that was not understood."""
    found = []
    for output in page(path).select(".cell_output"):
        text = output.get_text()
        found += [f"{word} in an output: {text[:200]}" for word in ("nan", "NaN") if re.search(rf"\b{word}\b", text)]
        if "Traceback (most recent call last)" in text:
            found.append(f"an error in an output: {text[-200:]}")
    found += [
        f"a message of the build: {tag.get_text()[:200]}" for tag in page(path).select(".system-message, .problematic")
    ]
    main = page(path).select_one("article") or page(path)
    for text in main.find_all(string=MARKUP):
        if not any(parent.name in ("pre", "code", "script", "style") for parent in text.parents):
            if not any("math" in parent.get("class", []) for parent in text.parents):
                found.append(f"Markdown that was not understood: {text.strip()[:200]}")
    return found


# ------------------------------------------------------------------ the site
HTML = sorted(path for path in SITE.rglob("*.html") if "_static" not in path.parts)  # there are templates in there


def names(path: Path) -> str:
    return path.relative_to(SITE).as_posix()


def built(path: Path) -> Path:
    return SITE / path.relative_to(ROOT).with_suffix(".html")


def test_the_first_page_leads_to_the_book():
    refresh = page(SITE / "index.html").find("meta", attrs={"http-equiv": "Refresh"})
    assert (SITE / refresh["content"].partition("url=")[2]).is_file()


@pytest.mark.parametrize("path", HTML, ids=names)
def test_links_resolve_and_nothing_is_asked_of_the_network(path):
    assert dead_links(path) == []
    assert network_requests(path) == []


@pytest.mark.parametrize("path", HTML, ids=names)
def test_no_identifier_stands_twice(path):
    found = [tag["id"] for tag in page(path).find_all(id=True)]
    assert [name for name in set(found) if found.count(name) > 1] == []


@pytest.mark.parametrize("path", HTML, ids=names)
def test_outputs_are_right(path):
    assert wrong_outputs(path) == []


def test_the_site_is_small():
    sizes = {path: path.stat().st_size for path in SITE.rglob("*") if path.is_file()}
    largest = sorted(sizes, key=lambda path: sizes[path])[-5:]
    assert sum(sizes.values()) < MOST, f"the site has {sum(sizes.values())} bytes; its largest files are {largest}"


def test_style_sheets_ask_nothing_of_the_network():
    remote = re.compile(r"(url\(|@import)\s*[\"']?(https?:)?//")
    assert [path for path in SITE.rglob("*.css") if remote.search(path.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "book" / "_static").iterdir()))
def test_a_browser_does_not_keep_old_styles_and_scripts(name):
    addresses = [tag[key] for kind, key in (("link", "href"), ("script", "src")) for tag in
                 page(built(chapters()[0])).find_all(kind, **{key: re.compile(rf"/{re.escape(name)}\b")})]  # fmt: skip
    assert addresses and all("?v=" in address for address in addresses)


@pytest.mark.parametrize("source", pages(), ids=lambda path: path.name)
def test_page_is_built_with_its_claims_numbered_and_its_mathematics(source):
    path = built(source)
    soup = page(path)
    for claim in claims(markdown(source)):
        title = soup.find(id=claim.label).select_one(".admonition-title").get_text()
        assert re.match(rf"{claim.kind.title()} \d+(\.\d+)*\b", title), title
    if soup.select(".math"):
        assert any("mathjax" in tag["src"] for tag in soup.find_all("script", src=True))


@pytest.mark.parametrize("source", chapters(), ids=lambda path: path.name)
def test_chapter_shows_figures_and_says_what_they_show(source):
    pictures = page(built(source)).select(".cell_output img")
    assert pictures
    assert [str(tag)[:200] for tag in pictures if tag.get("src") and len(tag.get("alt", "").split()) < 3] == []
