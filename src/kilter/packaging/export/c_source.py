"""A model as C99 that needs nothing but the standard library: no allocation, no state, safe to call from any thread."""

from __future__ import annotations

import math
from collections.abc import Iterable

from kilter.packaging.export.forest import OUT_OF_RANGE, ZERO, Forest
from kilter.packaging.export.source import Code, tables_of, wrapped
from kilter.packaging.linear import Linear

_HEAD = """\
/* {title}
 *
 * A row is {columns} numbers in the order of {name}_input_names: NAN where a value is missing, and for a category the code
 * that {name}_category gives. Build: cc -O2 -std=c99 -ffp-contract=off -c {name}.c, and link with -lm.
 */
"""

_H = """\
#ifndef {upper}_H
#define {upper}_H

#ifdef __cplusplus
extern "C" {{
#endif

#define {upper}_INPUTS {columns}
#define {upper}_OUTPUTS {outputs}

extern const char *const {name}_input_names[{upper}_INPUTS];
extern const char *const {name}_output_names[{upper}_OUTPUTS];

/* The code of a category, or NAN for a value that the model has never seen and for an input without categories. */
double {name}_category(int input, const char *value);

/* Answers one row of {upper}_INPUTS numbers with {upper}_OUTPUTS numbers. */
void {name}_predict(const double *row, double *answer);

#ifdef __cplusplus
}}
#endif

#endif
"""

_NAMES = """\
#include "{name}.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

const char *const {name}_input_names[{upper}_INPUTS] = {{
{inputs}
}};
const char *const {name}_output_names[{upper}_OUTPUTS] = {{
{outputs}
}};

/* All categories, one input's behind the other's; an input's are those from its start to the next one's. */
static const char *const categories[] = {{
{categories}
    ""
}};
static const int starts[{upper}_INPUTS + 1] = {{
{starts}
}};

double {name}_category(int input, const char *value) {{
    if (input < 0 || input >= {upper}_INPUTS || value == 0) return NAN;
    for (int place = starts[input]; place < starts[input + 1]; place++)
        if (strcmp(categories[place], value) == 0) return place - starts[input];
    return NAN;
}}
"""

_FOREST = """\

struct node {{
    {number} threshold;
    int32_t left, right; /* the next node, or ~leaf */
    uint32_t first, words; /* its set of categories */
    uint16_t feature;
    uint16_t flags; /* 1 categorical, 2 a missing value goes left, 4 zero is missing, 8 NAN is missing */
}};
static const struct node nodes[] = {{
{nodes}
}};
static const {number} leaves[] = {{
{leaves}
}};
static const uint32_t sets[] = {{
{sets}
}};
static const int32_t roots[] = {{
{roots}
}};
static const uint16_t targets[] = {{
{targets}
}};

static int goes_left(const struct node *node, {number} value) {{
{left}
}}

void {name}_predict(const double *row, double *answer) {{
    {number} held[{upper}_INPUTS], sums[{upper}_OUTPUTS] = {{
{base}
    }};
    for (int input = 0; input < {upper}_INPUTS; input++) held[input] = ({number})row[input];
    for (int tree = 0; tree < {trees}; tree++) {{
        int32_t place = roots[tree];
        while (place >= 0) {{
            const struct node *node = &nodes[place];
            place = goes_left(node, held[node->feature]) ? node->left : node->right;
        }}
        sums[targets[tree]] += leaves[~place];
    }}
{link}
}}
"""

_LIGHTGBM_LEFT = f"""\
    if (node->flags & 1) {{
        if (!(value > -1.0 && value < 2147483648.0)) return 0; /* NAN, too */
        uint32_t code = (uint32_t)(int32_t)value;
        return code / 32 < node->words && (sets[node->first + code / 32] >> (code % 32) & 1);
    }}
    if (isnan(value)) {{
        if (node->flags & 8) return (node->flags & 2) != 0;
        value = 0.0;
    }}
    if ((node->flags & 4) && value >= -{ZERO!r} && value <= {ZERO!r}) return (node->flags & 2) != 0;
    return value <= node->threshold;"""

_XGBOOST_LEFT = f"""\
    if (isnan(value)) return (node->flags & 2) != 0;
    if (node->flags & 1) {{
        if (!(value >= 0.0f && value < {OUT_OF_RANGE!r}f)) return 1;
        uint32_t code = (uint32_t)value;
        return code / 32 >= node->words || !(sets[node->first + code / 32] >> (code % 32) & 1);
    }}
    return value < node->threshold;"""

_LINEAR = """\

static const double weights[{upper}_OUTPUTS][{upper}_INPUTS] = {{
{weights}
}};
static const double fill[{upper}_INPUTS] = {{ /* what stands for a missing number */
{fill}
}};
/* Per code of a category, then for a missing or unknown one, what is added to each output. */
static const double tables[][{upper}_OUTPUTS] = {{
{tables}
}};
static const int first[{upper}_INPUTS] = {{ /* where an input's table begins, or -1 */
{first}
}};
static const int known[{upper}_INPUTS] = {{ /* how many codes it has */
{known}
}};

void {name}_predict(const double *row, double *answer) {{
    double sums[{upper}_OUTPUTS] = {{
{base}
    }};
    for (int input = 0; input < {upper}_INPUTS; input++) {{
        double value = row[input];
        if (first[input] >= 0) {{
            const double *added = tables[first[input] + (value >= 0.0 && value < known[input] ? (int)value : known[input])];
            for (int output = 0; output < {upper}_OUTPUTS; output++) sums[output] += added[output];
            continue;
        }}
        if (isnan(value)) value = fill[input];
        for (int output = 0; output < {upper}_OUTPUTS; output++) sums[output] += weights[output][input] * value;
    }}
{link}
}}
"""

_TEST = """\
/* Asks the model about example rows; ends with 1 when an answer is not the packaged model's. */
#include "{name}.h"

#include <math.h>
#include <stdio.h>

static const double rows[][{upper}_INPUTS] = {{
{rows}
}};
static const double wanted[][{upper}_OUTPUTS] = {{
{wanted}
}};

int main(void) {{
    double worst = 0.0, answer[{upper}_OUTPUTS];
    for (int row = 0; row < {count}; row++) {{
        {name}_predict(rows[row], answer);
        for (int output = 0; output < {upper}_OUTPUTS; output++) {{
            double far = fabs(answer[output] - wanted[row][output]) / fmax(1.0, fabs(wanted[row][output]));
            if (!(far <= worst)) worst = far;
        }}
    }}
    printf("{count} rows, largest difference %.3g\\n", worst);
    return worst <= {tolerance!r} ? 0 : 1;
}}
"""

_EACH = "    for (int output = 0; output < {upper}_OUTPUTS; output++) "


def c_files(code: Code) -> dict[str, bytes]:
    """Return the files of a model as C: source, header and a program that tests them.

    Args:
        code: The model.
    """
    words = {"name": code.name, "upper": code.name.upper(), "columns": len(code.inputs), "outputs": len(code.outputs),
             "title": code.title.replace("*/", "* /")}  # fmt: skip
    head = _HEAD.format(**words)
    spelled = [[_text(value) for value in code.categories.get(name, ())] for name in code.inputs]
    ends = [sum(len(values) for values in spelled[:place]) for place in range(len(spelled) + 1)]
    names = _NAMES.format(
        **words
        | {
            "inputs": wrapped(map(_text, code.inputs)),
            "outputs": wrapped(map(_text, code.outputs)),
            "categories": wrapped(value for values in spelled for value in values),
            "starts": wrapped(map(str, ends)),
        }
    )
    source = code.source
    body = _forest(source, words) if isinstance(source, Forest) else _linear(source, words)
    test = _TEST.format(
        **words,
        rows=_matrix(code.rows.tolist()),
        wanted=_matrix(code.values.tolist()),
        count=len(code.rows),
        tolerance=code.tolerance,
    )
    found = {".h": head + _H.format(**words), ".c": head + names + body, "_test.c": test}
    return {code.name + ending: text.encode() for ending, text in found.items()}


def _forest(forest: Forest, words: dict[str, object]) -> str:
    tables, single = tables_of(forest), forest.dialect == "xgboost"
    f = "f" if single else ""
    nodes = [
        f"    {{{_number(threshold, f)}, {left}, {right}, {start}, {count}, {feature}, {flags}}},"
        for feature, flags, threshold, left, right, start, count in tables.nodes
    ]
    return _FOREST.format(
        **words,
        number="float" if single else "double",
        nodes="\n".join(nodes) or "    {0, 0, 0, 0, 0, 0, 0}",
        leaves=wrapped(_numbers(tables.leaves or [0.0], f)),
        sets=wrapped(f"{word}u" for word in tables.words or [0]),
        roots=wrapped(map(str, tables.roots or [0])),
        targets=wrapped(map(str, tables.targets or [0])),
        left=_XGBOOST_LEFT if single else _LIGHTGBM_LEFT,
        base=wrapped(_numbers(forest.base, f), "        "),
        trees=len(tables.roots),
        link=_forest_link(forest, f).format(**words),
    )


def _forest_link(forest: Forest, f: str) -> str:
    """Return the code from the sums to the answer, with the operations and in the precision of the model's own library."""
    divide = f"{_EACH}sums[output] /= {forest.divisor}.0{f};\n" if forest.divisor != 1 else ""
    match forest.link:
        case "identity":
            link = f"{_EACH}answer[output] = sums[output];"
        case "exp":
            link = f"{_EACH}answer[output] = exp{f}(sums[output]);"
        case "log1pexp":
            link = f"{_EACH}answer[output] = log1p{f}(exp{f}(sums[output]));"
        case "signed-square":
            link = f"{_EACH}answer[output] = sums[output] * fabs{f}(sums[output]);"
        case "hinge":
            link = f"{_EACH}answer[output] = sums[output] > 0 ? 1 : 0;"
        case "softmax":
            number = "float" if f else "double"
            link = (
                f"    {number} most = sums[0];\n    double total = 0.0;\n"
                f"{_EACH}if (sums[output] > most) most = sums[output];\n"
                f"{_EACH}total += sums[output] = exp{f}(sums[output] - most);\n"
                f"{_EACH}answer[output] = sums[output] / ({number})total;"
            )
        case _ if f:
            link = f"{_EACH}answer[output] = 1.0f / (expf(fminf(-sums[output], 88.7f)) + 1.0f);"
        case _:
            link = f"{_EACH}answer[output] = 1.0 / (1.0 + exp({_number(-forest.scale)} * sums[output]));"
    return divide + link


def _linear(form: Linear, words: dict[str, object]) -> str:
    columns = len(form.weights[0])
    first, known = [-1] * columns, [0] * columns
    rows: list[tuple[float, ...]] = []
    for place, table in sorted((int(place), table) for place, table in form.tables.items()):
        first[place], known[place] = len(rows), len(table) - 1
        rows.extend(table)
    match form.link:
        case "identity":
            link = f"{_EACH}answer[output] = sums[output];"
        case "exp":
            link = f"{_EACH}answer[output] = exp(sums[output]);"
        case "logit":
            link = f"{_EACH}answer[output] = 1.0 / (1.0 + exp(-sums[output]));"
        case "one-vs-rest":
            link = (
                f"    double total = 0.0;\n{_EACH}total += answer[output] = 1.0 / (1.0 + exp(-sums[output]));\n"
                f"{_EACH}answer[output] = total == 0.0 ? 1.0 / {{upper}}_OUTPUTS : answer[output] / total;"
            )
        case "softmax":
            link = (
                f"    double most = sums[0], total = 0.0;\n{_EACH}if (sums[output] > most) most = sums[output];\n"
                f"{_EACH}total += answer[output] = exp(sums[output] - most);\n{_EACH}answer[output] /= total;"
            )
    return _LINEAR.format(
        **words,
        weights=_matrix(form.weights),
        fill=wrapped("NAN" if value is None else _number(value) for value in form.fill or (None,) * columns),
        tables=_matrix(rows or [(0.0,) * len(form.weights)]),
        first=wrapped(map(str, first)),
        known=wrapped(map(str, known)),
        base=wrapped(_numbers(form.intercept), "        "),
        link=link.format(**words),
    )


def _matrix(rows: Iterable[Iterable[float]]) -> str:
    return "\n".join(f"    {{\n{wrapped(_numbers(row), '        ')}\n    }}," for row in rows)


def _numbers(values: Iterable[float], f: str = "") -> list[str]:
    return [_number(value, f) for value in values]


def _number(value: float, f: str = "") -> str:
    """Return a literal that reads back as this very number."""
    if math.isnan(value):
        return "NAN"
    if math.isinf(value):
        return "INFINITY" if value > 0 else "-INFINITY"
    return f"{value!r}{f}"


def _text(value: str) -> str:
    """Return a string literal in ASCII; octal escapes end by themselves, and none is a trigraph."""
    letters = (
        chr(byte) if 32 <= byte < 127 and chr(byte) not in '"\\?' else f"\\{byte:03o}" for byte in value.encode()
    )
    return f'"{"".join(letters)}"'
