"""Remove from a built site everything that none of its pages needs, so that they load quickly.

``book/build.py`` calls :func:`slim` after each build. It also corrects errors that affect screen readers and browsers
without JavaScript. The theme brings a style sheet of 400 kB, two thousand icons and a full MathJax; a page of this book
needs a tenth of that. A second call changes nothing.
"""

import hashlib
import io
import multiprocessing
import os
import re
import shutil
from functools import partial
from itertools import pairwise
from pathlib import Path

import tinycss2
from fontTools import subset
from fontTools.ttLib import TTFont
from PIL import Image, ImageChops

# Parts of MathJax and of the theme that no page loads
UNUSED = (
    *(
        f"mathjax/{name}"
        for name in ("mml-*.js", "tex-mml-*.js", "tex-svg*.js", "tex-chtml-full*.js", "latest.js")
    ),
    *(
        f"mathjax/{name}"
        for name in ("node-main.js", "adaptors", "output/svg*", "sre", "ui", "input/mml*")
    ),
    *(
        f"mathjax/{name}"
        for name in ("input/asciimath.js", "input/tex-*.js", "a11y/[!a]*.js", "loader.js")
    ),
    *(f"scripts/{name}.js*" for name in ("bootstrap", "fontawesome")),
    *("vendor/fontawesome/webfonts/*.woff2", "locales"),
    "**/*.map",
)
# Of MathJax, in this order: no menu, whose place among the keys every formula would have
MATHJAX = (
    "startup",
    "core",
    "input/tex",
    "output/chtml",
    "output/chtml/fonts/tex",
    "a11y/assistive-mml",
)
PRELOAD = "MathJax.loader.preLoad('core', 'input/tex', 'output/chtml', 'output/chtml/fonts/tex.js', 'a11y/assistive-mml');"
# Scripts and styles by a part of their name, and a pattern that matches the pages that need them
NEEDED_BY = {
    r"searchtools|language_data|searchindex": r'id="search-results"',
    r"clipboard|copybutton": r"<pre\b",
    r"togglebutton": r'class="(?:[^"]* )?(?:toggle[ "]|dropdown admonition|admonition [^"]*\bdropdown\b)',
    r"design-tabs": r'class="[^"]*\bsd-tab-set\b',
    r"mystnb": r'class="[^"]*\bcell\b',
    r"proof\.css": r'class="[^"]*\bproof\b',
    r"mathjax/": r'class="[^"]*\bmath\b',
    r"fontawesome|bootstrap": r"(?!)",  # no page: book.js opens the one menu, and the icons are a font's
}
REFERENCE = re.compile(
    r'[ \t]*(?:<script\b[^>]*\bsrc="(?P<script>[^"]+)"[^>]*>\s*</script>|<link\b[^>]*\bhref="(?P<link>[^"]+)"[^>]*>)\n?'
)
# The theme's hidden top bar, which its script measures. In it are menu buttons to which the script would bind the menus, in
# place of those that can be seen.
TOP_BAR = re.compile(r'(<header id="pst-header"[^>]*>).*?(?=</header>)', re.DOTALL)
KEPT_SPACE = re.compile(r"(<(pre|script|style|textarea)\b.*?</\2>)", re.DOTALL)
# Errors of the theme and of sphinx-proof that affect screen readers or the keyboard
MENDED = (
    (
        '<summary><span class="toctree-toggle"',
        '<summary aria-label="pages below"><span class="toctree-toggle"',
    ),
    (
        '<div id="pst-primary-sidebar" class',
        '<div id="pst-primary-sidebar" role="complementary" aria-label="The book" class',
    ),
    ("<th></th>", "<td></td>"),  # the corner of a table
    (' id="proof-content"', ""),  # of every proof on a page, and used by nothing
    ('" id="proof">', ' is-proof">'),
    (' role="doc-biblioentry"', ""),
    (' data-theme="auto"', ' data-theme="light"'),  # without JavaScript there were no colours
)
NO_SCRIPT = """<noscript><style>
.math:has(+ noscript > math) { position: absolute; font-size: 0; }
div.math:has(+ noscript > math) { position: static; float: right; margin: 1rem 0 0 1rem; }
div.math > .eqno { font-size: 1rem; }
noscript:has(> math[display="block"]) { display: block; overflow-x: auto; }
@media (max-width: 576px) {
div.math:has(+ noscript > math) { float: none; margin: 1rem 0 -1rem; }
noscript:has(> math[display="inline"]) { display: inline-block; max-width: 100%; overflow-x: auto; vertical-align: middle; }
}
.sidebar-toggle, .btn-fullscreen-button, .dropdown-download-buttons { display: none !important; }
</style><p class="no-script">JavaScript is off here: figures stand still, and the search is closed.
The <a href="ROOTbook/intro.html#map">map</a> leads to every chapter.</p></noscript>
"""
NAMES = re.compile(r"[\w-]+")
WOFF2 = re.compile(r'url\([^)]*\.woff2"?\)\s*format\("woff2"\),\s*')
# A custom property and its value, up to the end of the declaration
PROPERTY = re.compile(
    r"""(?<=[{;])\s*(?P<name>--[\w-]+):(?:[^;{}"']|"[^"]*"|'[^']*')*(?:;|(?=\}))"""
)


def slim(site: Path, store: Path) -> None:
    """Make a site light: its pages, their pictures, scripts, styles and icons.

    Args:
        site: the folder of the site.
        store: the folder that keeps pictures for the next build.
    """
    static = site / "_static"
    bundle(static / "mathjax")
    for path in {path for pattern in UNUSED for path in static.glob(pattern)}:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    with multiprocessing.Pool() as pool:
        pool.map(partial(to_webp, store=store), (site / "_images").glob("*.png"))
    pages = [path for path in site.rglob("*.html") if static not in path.parents]
    for path in pages:
        text = path.read_text(encoding="utf-8")
        path.write_text(light(text, path.parent), encoding="utf-8")
    names = names_in(pages, [path for path in static.rglob("*.js") if "mathjax" not in path.parts])
    sheets = sorted(static.rglob("*.css"))
    for path in sheets:
        path.write_text(purge(path.read_text(encoding="utf-8"), names), encoding="utf-8")
    forget_unused_properties(sheets, names)
    icons = {
        ord(sign)
        for path in sheets
        for sign in path.read_text(encoding="utf-8")
        if "\ue000" <= sign <= "\uf8ff"
    }
    for path in static.glob("vendor/fontawesome/webfonts/*.ttf"):
        only_icons(path, icons)


# ------------------------------------------------------------------ scripts
def bundle(mathjax: Path) -> None:
    """Put together the parts of MathJax that pages need, in place of a bundle that has its menu, too."""
    whole = mathjax / "tex-chtml.js"
    if whole.exists() and PRELOAD not in whole.read_text(encoding="utf-8"):
        parts = [(mathjax / f"{name}.js").read_text(encoding="utf-8") for name in MATHJAX]
        whole.write_text("\n".join([parts[0], PRELOAD, *parts[1:]]), encoding="utf-8")
    for name in MATHJAX:
        (mathjax / f"{name}.js").unlink(missing_ok=True)


# ------------------------------------------------------------------ pages
def light(page: str, folder: Path) -> str:
    """Return a page without the scripts and styles that it does not need; its pictures get their sizes.

    Args:
        page: the HTML.
        folder: of the page; addresses of its pictures are relative to it.
    """

    def kept(reference: re.Match[str]) -> str:
        name = reference["script"] or reference["link"]
        needs = (need for part, need in NEEDED_BY.items() if re.search(part, name))
        return reference[0] if all(re.search(need, page) for need in needs) else ""

    def sized(image: re.Match[str]) -> str:
        path = folder / image["source"]
        if " width=" in image[0] or path.suffix != ".webp" or not path.is_file():
            return image[0]
        with Image.open(path) as picture:
            width, height = picture.size
        return f'<img loading="lazy" width="{width}" height="{height}"{image["rest"]}>'

    text = REFERENCE.sub(kept, TOP_BAR.sub(r"\1", page))
    text = re.sub(r'(?<=")([^"]*\b_images/[^"]*)\.png(?=")', r"\1.webp", text)
    text = re.sub(r'<img(?P<rest>[^>]*\bsrc="(?P<source>[^"]+)"[^>]*)>', sized, text)
    for wrong, right in MENDED:
        text = text.replace(wrong, right)
    if 'class="no-script"' not in text and (
        root := re.search(r'data-content_root="([^"]*)"', text)
    ):
        article = '<article class="bd-article">'
        text = text.replace(article, f"{article}\n{NO_SCRIPT.replace('ROOT', root[1])}")
    pieces = KEPT_SPACE.split(
        text
    )  # text, an element whose spaces count, the name of its tag, text, ...
    pieces[::3] = [re.sub(r"\n\s+", "\n", piece) for piece in pieces[::3]]
    del pieces[2::3]
    return "".join(pieces)


# ------------------------------------------------------------------ pictures
def to_webp(path: Path, store: Path) -> None:
    """Replace a picture by its WebP, which takes half of the bytes."""
    path.with_suffix(".webp").write_bytes(as_webp(path.read_bytes(), store))
    path.unlink()


def as_webp(png: bytes, store: Path) -> bytes:
    """Return a picture as WebP, from the store if it is there.

    It gets a palette of 256 colours, unless more than one pixel in 500 would change visibly; nothing else is lost.
    Transparent pictures keep all of their colours.
    """
    stored = store / f"{hashlib.sha256(png).hexdigest()}.webp"
    if stored.exists():
        return stored.read_bytes()
    with Image.open(io.BytesIO(png)) as picture:
        kept = picture.convert("RGBA")
    if kept.getchannel("A").getextrema()[0] == 255:
        kept = kept.convert("RGB")
        few = kept.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).convert("RGB")
        red, green, blue = ImageChops.difference(few, kept).split()
        changes = ImageChops.lighter(ImageChops.lighter(red, green), blue).histogram()
        kept = few if sum(changes[9:]) < 0.002 * sum(changes) else kept
    kept.save(made := io.BytesIO(), "WEBP", lossless=True)
    store.mkdir(parents=True, exist_ok=True)
    partial_file = stored.with_suffix(f".{os.getpid()}")
    partial_file.write_bytes(made.getvalue())
    partial_file.replace(stored)
    return made.getvalue()


# ------------------------------------------------------------------ styles and icons
def names_in(pages: list[Path], scripts: list[Path]) -> set[str]:
    """Return every class, identifier and custom property that the pages have or that a script could give to them."""
    names: set[str] = set()
    for path in pages:
        text = path.read_text(encoding="utf-8")
        for value in re.findall(r'\b(?:class|id|style)="([^"]*)"', text):
            names.update(NAMES.findall(value))
        for code in re.findall(r"<(?:script|style)\b[^>]*>(.*?)</", text, re.DOTALL):
            names.update(NAMES.findall(code))
    for path in scripts:
        names.update(NAMES.findall(path.read_text(encoding="utf-8")))
    return names


def purge(sheet: str, names: set[str]) -> str:
    """Return a style sheet without comments and without the rules for unused classes and identifiers."""
    sheet = sheet.replace("div#proof", "div.is-proof")
    sheet = WOFF2.sub("", sheet)  # of the icons' fonts, the other format is shortened
    return "".join(
        rules(tinycss2.parse_stylesheet(sheet, skip_comments=True, skip_whitespace=True), names)
    )


def forget_unused_properties(sheets: list[Path], names: set[str]) -> None:
    """Remove from style sheets the custom properties that none of them uses, until all that are left are used."""
    texts = {path: path.read_text(encoding="utf-8") for path in sheets}
    used: set[str] | None = None
    while used != (
        now := names
        | {name for text in texts.values() for name in re.findall(r"var\(\s*(--[\w-]+)", text)}
    ):
        used = now
        for path, text in texts.items():
            texts[path] = PROPERTY.sub(lambda found: found[0] if found["name"] in now else "", text)
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")


def rules(nodes: list[tinycss2.ast.Node], names: set[str]) -> list[str]:
    """Return the rules of a style sheet, or of a block in one, that could apply to an element."""
    kept = []
    for node in nodes:
        if node.type == "qualified-rule":
            selectors = [part for part in alternatives(node.prelude) if wanted(part) <= names]
            if selectors:
                head = ",".join(tinycss2.serialize(part).strip() for part in selectors)
                kept.append(f"{head}{{{declarations(node.content)}}}")
        elif node.type == "at-rule" and node.lower_at_keyword in (
            "media",
            "supports",
            "layer",
            "container",
        ):
            inner = tinycss2.parse_rule_list(
                node.content or [], skip_comments=True, skip_whitespace=True
            )
            if within := rules(inner, names):
                kept.append(
                    f"@{node.at_keyword}{tinycss2.serialize(node.prelude)}{{{''.join(within)}}}"
                )
        else:
            kept.append(node.serialize())
    return kept


def alternatives(prelude: list[tinycss2.ast.Node]) -> list[list[tinycss2.ast.Node]]:
    """Return the selectors of a rule, which commas divide."""
    parts: list[list[tinycss2.ast.Node]] = [[]]
    for token in prelude:
        if token == ",":
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def wanted(selector: list[tinycss2.ast.Node]) -> set[str]:
    """Return the classes and identifiers that an element or its ancestors must have to match a selector."""
    found = {token.value for token in selector if token.type == "hash"}
    pairs = pairwise(selector)
    return found | {name.value for dot, name in pairs if dot == "." and name.type == "ident"}


def declarations(content: list[tinycss2.ast.Node]) -> str:
    """Return the content of a rule without spaces around it."""
    return tinycss2.serialize(content).strip()


def only_icons(path: Path, icons: set[int]) -> None:
    """Keep in a font only the characters of these code points."""
    with TTFont(path) as font:
        if set(font.getBestCmap() or ()) <= icons:  # none, where no icon was asked for before
            return
        shrink = subset.Subsetter(subset.Options(notdef_outline=True, glyph_names=False))
        shrink.populate(unicodes=icons)
        shrink.subset(font)
        font.save(path)
