"""The workloads of `scripts/soak workloads`: third-party programs and libraries from PyPI, npm and
Debian, each with a few lines that use it and print a known result.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SUITE = "trixie"
# The Debian packages of each base image, in addition to the essential ones.
IMAGES: Mapping[str, tuple[str, ...]] = {
    "browser": ("chromium-headless-shell", "fonts-dejavu-core", "nodejs"),
    "documents": ("7zip", "graphviz", "jq", "pandoc", "ripgrep", "sqlite3", "zstd"),
    "languages": ("gcc-14", "libc6-dev", "perl", "php8.4-cli", "ruby3.3"),
    "media": ("ffmpeg", "imagemagick-7.q16"),
    "java": ("openjdk-21-jdk-headless",),
}


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A program or library, and the expected output of an invocation.

    `packages`: names with exact versions, from PyPI (`name==1.2`) or npm (`name@1.2`), or Debian
    packages in `image`, which is a key of IMAGES. Without `image`, the workload uses the host's
    files. `files`: the code that uses the program. `cannot`: a part of the error of a workload that
    cannot run; `why`: the explanation for readers.
    """

    name: str
    does: str
    kind: str
    packages: tuple[str, ...]
    handler: str
    files: Mapping[str, str]
    prints: str
    image: str = ""
    memory_mib: int = 512
    cannot: str = ""
    why: str = ""

    @property
    def slug(self) -> str:
        """The name of the workload's runtime and function."""
        return re.sub("[^a-z0-9]+", "-", self.name.lower())

    def of(self, registry: str) -> list[str]:
        """The packages of PyPI (`==`) or of npm (`@`)."""
        return [one for one in self.packages if registry in one[1:]]


def python(source: str) -> dict[str, str]:
    return {"main.py": source}


def node(source: str) -> dict[str, str]:
    return {"main.js": source}


def shell(source: str) -> dict[str, str]:
    return {"main.sh": f"set -e\ncd /tmp\n{source}"}


PYTHON: dict[str, Any] = {"kind": "python", "handler": "main:handler"}
NODE: dict[str, Any] = {"kind": "node", "handler": "main:handler"}
SHELL: dict[str, Any] = {"kind": "shell", "handler": "exec sh main.sh"}

DATA = (
    Workload(
        name="pandas",
        does="groups 100,000 rows, to Parquet by pyarrow and back",
        packages=("pandas==3.1.1", "pyarrow==26.0.1"),
        files=python("""
import pandas

def handler():
    frame = pandas.DataFrame({"n": range(100_000)})
    frame["digit"] = frame.n % 10
    frame.groupby("digit").sum().to_parquet("/tmp/sums.parquet")
    return int(pandas.read_parquet("/tmp/sums.parquet").n[3])
"""),
        prints="499980000",
        **PYTHON,
    ),
    Workload(
        name="scikit-learn",
        does="cross-validates a forest on its iris data in two processes of joblib",
        packages=("scikit-learn==1.9.1",),
        files=python("""
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import cross_val_score

def handler():
    data, wanted = load_iris(return_X_y=True)
    forest = RandomForestClassifier(20, random_state=0)
    scores = cross_val_score(forest, data, wanted, cv=5, n_jobs=2)
    return [len(scores), bool(scores.mean() > 0.93)]
"""),
        prints="[5, true]",
        memory_mib=1024,
        **PYTHON,
    ),
    Workload(
        name="DuckDB",
        does="a million rows in a database file, to Parquet and back",
        packages=("duckdb==2.0.1",),
        files=python("""
import duckdb

def handler():
    with duckdb.connect("/tmp/data.duckdb") as data:
        data.sql("CREATE TABLE one AS SELECT range AS n FROM range(1000000)")
        data.sql("COPY one TO '/tmp/one.parquet'")
        return str(data.execute("SELECT sum(n) FROM '/tmp/one.parquet'").fetchone()[0])
"""),
        prints="499999500000",
        **PYTHON,
    ),
    Workload(
        name="Polars",
        does="a lazy query over a million rows, in threads",
        packages=("polars==2.1.0",),
        files=python("""
import polars

def handler():
    rows = polars.LazyFrame({"n": polars.int_range(1_000_000, eager=True)})
    sums = rows.group_by(polars.col("n") % 10).agg(polars.col("n").sum().alias("sum"))
    return sums.sort("n").collect()["sum"][3]
"""),
        prints="49999800000",
        **PYTHON,
    ),
    Workload(
        name="Numba",
        does="compiles a loop by LLVM and runs it",
        packages=("numba==0.68.1",),
        files=python("""
import numba

@numba.njit
def collatz(start):
    steps = 0
    while start != 1:
        start = start // 2 if start % 2 == 0 else 3 * start + 1
        steps += 1
    return steps

def handler():
    return collatz(837799)
"""),
        prints="524",
        **PYTHON,
    ),
    Workload(
        name="LevelDB",
        does="classic-level: 1,000 keys in a batch, counted in order",
        packages=("classic-level@3.0.0",),
        files=node("""
const { ClassicLevel } = require('classic-level');
exports.handler = async () => {
    const data = new ClassicLevel('/tmp/data');
    const name = (n) => String(n).padStart(4, '0');
    const puts = Array.from({ length: 1000 }, (_, n) => ({ type: 'put', key: name(n), value: '' }));
    await data.batch(puts);
    const keys = await data.keys({ gte: '0500' }).all();
    await data.close();
    return [keys.length, keys[0]];
};
"""),
        prints='[500,"0500"]',
        **NODE,
    ),
    Workload(
        name="better-sqlite3",
        does="a transaction in a SQLite file",
        packages=("better-sqlite3@12.11.1",),
        files=node("""
const Database = require('better-sqlite3');
exports.handler = () => new Database('/tmp/data.db').prepare('SELECT 1 AS n').get().n;
"""),
        prints="1",
        cannot="Could not locate the bindings file",
        why="its compiled part is made by an install script, which `runtimes add` does not run; "
        "give a `node_modules` in which it was run",
        **NODE,
    ),
)

IMAGES_AND_DOCUMENTS = (
    Workload(
        name="Pillow",
        does="draws, writes WebP, reads it and makes it smaller",
        packages=("pillow==13.0.0",),
        files=python("""
from PIL import Image, ImageDraw

def handler():
    picture = Image.new("RGB", (640, 480), "white")
    ImageDraw.Draw(picture).rectangle((0, 0, 320, 480), fill=(255, 0, 0))
    picture.save("/tmp/picture.webp", lossless=True)
    with Image.open("/tmp/picture.webp") as read:
        small = read.resize((64, 48))
        return [read.format, small.size, small.getpixel((8, 8)), small.getpixel((60, 40))]
"""),
        prints='["WEBP", [64, 48], [255, 0, 0], [255, 255, 255]]',
        **PYTHON,
    ),
    Workload(
        name="OpenCV",
        does="writes a QR code and reads it from the turned picture",
        packages=("opencv-python-headless==5.0.0.93",),
        files=python("""
import cv2

def handler():
    code = cv2.QRCodeEncoder.create().encode("quilt")
    large = cv2.resize(code, None, fx=8, fy=8, interpolation=cv2.INTER_NEAREST)
    framed = cv2.copyMakeBorder(large, 40, 40, 40, 40, cv2.BORDER_CONSTANT, value=255)
    turned = cv2.rotate(framed, cv2.ROTATE_90_CLOCKWISE)
    return cv2.QRCodeDetector().detectAndDecode(turned)[0]
"""),
        prints="quilt",
        **PYTHON,
    ),
    Workload(
        name="sharp",
        does="a PNG to a smaller WebP by libvips",
        packages=("sharp@0.35.5",),
        files=node("""
const sharp = require('sharp');
exports.handler = async () => {
    const create = { width: 640, height: 480, channels: 3, background: { r: 255, g: 0, b: 0 } };
    const png = await sharp({ create }).png().toBuffer();
    const webp = await sharp(png).resize(64).webp({ lossless: true }).toBuffer();
    const { format, width, height } = await sharp(webp).metadata();
    return [format, width, height];
};
"""),
        prints='["webp",64,48]',
        **NODE,
    ),
    Workload(
        name="ReportLab and pypdf",
        does="a PDF of three pages, whose text is read",
        packages=("reportlab==5.1.0", "pypdf==7.1.1"),
        files=python("""
from pypdf import PdfReader
from reportlab.pdfgen.canvas import Canvas

def handler():
    paper = Canvas("/tmp/three.pdf")
    for number in range(3):
        paper.drawString(72, 720, f"page {number + 1}")
        paper.showPage()
    paper.save()
    return [page.extract_text().strip() for page in PdfReader("/tmp/three.pdf").pages]
"""),
        prints='["page 1", "page 2", "page 3"]',
        **PYTHON,
    ),
    Workload(
        name="Jupyter nbconvert",
        does="runs a notebook in a kernel of its own and writes it as HTML",
        packages=("nbconvert==7.17.2", "ipykernel==7.4.0"),
        files=python("""
import os

# Where its templates are, which it looks for below the interpreter.
os.environ["JUPYTER_PATH"] = "/app/site-packages/share/jupyter"

import nbformat.v4 as notebook
from nbconvert import HTMLExporter
from nbconvert.preprocessors import ExecutePreprocessor

def handler():
    cells = [notebook.new_code_cell("a = 6"), notebook.new_code_cell("f'answer {a * 7}'")]
    book = notebook.new_notebook(cells=cells)
    ExecutePreprocessor(timeout=60, kernel_name="python3").preprocess(book)
    return "answer 42" in HTMLExporter().from_notebook_node(book)[0]
"""),
        prints="true",
        **PYTHON,
    ),
    Workload(
        name="FFmpeg",
        does="encodes two seconds of video as H.264 and counts the frames",
        image="media",
        packages=("ffmpeg",),
        files=shell("""
ffmpeg -v error -f lavfi -i testsrc=duration=2:size=320x240:rate=10 -c:v libx264 two.mp4
ffprobe -v error -count_frames -of csv=p=0 \\
    -show_entries stream=codec_name,width,nb_read_frames two.mp4
"""),
        prints="h264,320,20\n",
        **SHELL,
    ),
    Workload(
        name="ImageMagick",
        does="draws, writes PNG, turns and measures",
        image="media",
        packages=("imagemagick-7.q16",),
        files=shell("""
magick -size 320x200 xc:white -fill 'rgb(1,2,250)' -draw 'circle 160,100 160,50' one.png
magick one.png -rotate 90 -format '%m %w %h %[pixel:p{100,160}]\\n' info:
"""),
        prints="PNG 200 320 srgb(1,2,250)\n",
        **SHELL,
    ),
    Workload(
        name="Pandoc and Graphviz",
        does="Markdown to Word and back, a graph to SVG",
        image="documents",
        packages=("pandoc", "graphviz"),
        files=shell("""
printf '# Title\\n\\nSome *words*.\\n' | pandoc -f markdown -o one.docx
pandoc one.docx -t markdown
echo 'digraph { a -> b -> c }' | dot -Tsvg | grep -c '<g id="edge'
"""),
        prints="# Title\n\nSome *words*.\n2\n",
        **SHELL,
    ),
    Workload(
        name="SQLite, 7-Zip, Zstandard, jq and ripgrep",
        does="a query as JSON, through two archives, filtered and searched",
        image="documents",
        packages=("sqlite3", "7zip", "zstd", "jq", "ripgrep"),
        files=shell("""
sqlite3 data.db "CREATE TABLE one (n); INSERT INTO one SELECT value FROM generate_series(1, 1000)"
sqlite3 -json data.db 'SELECT n, n * n AS square FROM one' >one.json
7z a -bso0 -bsp0 one.7z one.json && 7z x -so one.7z | zstd -q | zstd -dq | cmp - one.json
jq -c '[.[].square] | add' one.json
rg -c '"n":9' one.json
"""),
        prints="333833500\n111\n",
        **SHELL,
    ),
)

WEB = (
    Workload(
        name="FastAPI",
        does="under uvicorn, a body checked by pydantic",
        kind="server",
        handler="exec python3 -m uvicorn main:app --host 0.0.0.0 --port $PORT",
        packages=("fastapi==0.165.0", "uvicorn==0.54.0"),
        files=python("""
from fastapi import FastAPI
from pydantic import BaseModel

class Order(BaseModel):
    price: float
    count: int = 2

app = FastAPI()

@app.post("/events")
def total(order: Order):
    return {"total": order.price * order.count}
"""),
        prints='{"total":5.0}',
    ),
    Workload(
        name="Express",
        does="a body parsed and answered",
        kind="server",
        handler="exec node main.js",
        packages=("express@5.3.0",),
        files=node("""
const express = require('express');
const app = express();
app.use(express.json());
app.post('/events', (request, response) => response.json({ total: request.body.price * 2 }));
app.listen(process.env.PORT, '0.0.0.0');
"""),
        prints='{"total":5}',
    ),
    Workload(
        name="Chromium by Playwright",
        does="a page with a script, clicked and photographed",
        image="browser",
        packages=("chromium-headless-shell", "playwright-core@1.65.1"),
        files=node("""
const { chromium } = require('playwright-core');
exports.handler = async () => {
    const executablePath = '/usr/bin/chromium-headless-shell';
    const browser = await chromium.launch({ executablePath, args: ['--no-sandbox'] });
    const page = await browser.newPage({ viewport: { width: 320, height: 200 } });
    await page.setContent('<button onclick="document.title = 6 * 7">go</button>');
    await page.click('button');
    const png = await page.screenshot();
    const found = [await page.title(), png.readUInt32BE(16), png.readUInt32BE(20)];
    await browser.close();
    return found;
};
"""),
        prints='["42",320,200]',
        memory_mib=1024,
        **NODE,
    ),
)

COMPILERS = (
    Workload(
        name="TypeScript",
        does="compiles a module with `tsc`, a Go program, and runs it",
        packages=("typescript@7.0.2",),
        files=node("""
const { execFileSync } = require('child_process');
const { writeFileSync } = require('fs');
const tsc = `${__dirname}/node_modules/typescript/bin/tsc`;
exports.handler = () => {
    writeFileSync('/tmp/one.ts', 'export const twice = (n: number): number => n * 2;');
    const options = ['--module', 'commonjs', '--outDir', '/tmp/out'];
    execFileSync(process.execPath, [tsc, ...options, '/tmp/one.ts']);
    return require('/tmp/out/one.js').twice(21);
};
"""),
        prints="42",
        memory_mib=1024,
        **NODE,
    ),
    Workload(
        name="GCC",
        does="compiles a program with threads and runs it",
        image="languages",
        packages=("gcc-14", "libc6-dev"),
        files=shell("""
cat >one.c <<'END'
#include <pthread.h>
#include <stdio.h>
static void *add(void *sum) { return __atomic_add_fetch((int *)sum, 21, __ATOMIC_SEQ_CST), sum; }
int main(void) {
    pthread_t threads[2];
    int sum = 0;
    for (int n = 0; n < 2; n++) pthread_create(&threads[n], 0, add, &sum);
    for (int n = 0; n < 2; n++) pthread_join(threads[n], 0);
    return printf("%d\\n", sum) < 0;
}
END
gcc-14 -O2 -Wall -Werror one.c -o one && ./one
"""),
        prints="42\n",
        **SHELL,
    ),
    Workload(
        name="OpenJDK",
        does="compiles a class and runs it in a pool of threads",
        image="java",
        packages=("openjdk-21-jdk-headless",),
        files=shell("""
cat >One.java <<'END'
import java.util.stream.IntStream;

public class One {
    public static void main(String[] names) {
        System.out.println(IntStream.rangeClosed(1, 1000).parallel().map(n -> n * n).sum());
    }
}
END
java -Xmx256m One.java
"""),
        prints="333833500\n",
        memory_mib=1024,
        **SHELL,
    ),
    Workload(
        name="Ruby",
        does="JSON, a digest and a regular expression",
        image="languages",
        packages=("ruby3.3",),
        files={
            "main.rb": """
require 'digest'
require 'json'
puts JSON.generate(sha: Digest::SHA256.hexdigest('quilt')[0, 8], words: 'a b c'.scan(/\\w/))
"""
        },
        kind="shell",
        handler="exec ruby3.3 main.rb",
        prints='{"sha":"b8b2eacf","words":["a","b","c"]}\n',
    ),
    Workload(
        name="PHP",
        does="JSON, a digest and a template",
        image="languages",
        packages=("php8.4-cli",),
        files={
            "main.php": """<?php $sha = substr(hash('sha256', 'quilt'), 0, 8); ?>
<b><?= json_encode(['sha' => $sha, 'sum' => array_sum(range(1, 1000))]) ?></b>
"""
        },
        kind="shell",
        handler="exec php8.4 main.php",
        prints='<b>{"sha":"b8b2eacf","sum":500500}</b>\n',
    ),
    Workload(
        name="Perl",
        does="packs, digests and sorts with its own modules",
        image="languages",
        packages=("perl",),
        files={
            "main.pl": """
use strict;
use Digest::SHA 'sha256_hex';
use List::Util 'sum';
print substr(sha256_hex('quilt'), 0, 8), ' ', sum(1 .. 1000), "\\n";
"""
        },
        kind="shell",
        handler="exec perl main.pl",
        prints="b8b2eacf 500500\n",
    ),
)

ALL = (*DATA, *IMAGES_AND_DOCUMENTS, *WEB, *COMPILERS)
