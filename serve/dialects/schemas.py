"""What the fields of all dialects are, in JSON Schema: the words and types of `/openapi.json`.

A field stands here once, however many dialects read it. `TYPES` says what `fields.py` takes, its
leniency too; a field names one of them by `ref`.
"""

from collections.abc import Mapping, Sequence

Schema = Mapping[str, object]


def ref(name: str, description: str, **more: object) -> Schema:
    """A field of the type `name`, with its own words."""
    return {"$ref": f"#/components/schemas/{name}", "description": description, **more}


def obj(
    properties: Mapping[str, Schema], *, optional: str = "", more: bool = False, about: str = ""
) -> dict[str, object]:
    """An object of an answer: all of `properties` are in it but those that `optional` names, and
    others only if `more`."""
    return {
        "type": "object",
        **({"description": about} if about else {}),
        "properties": dict(properties),
        "required": [name for name in properties if name not in optional.split()],
        "additionalProperties": more,
    }


def listed(items: Schema, **more: object) -> Schema:
    return {"type": "array", "items": items, **more}


def const(value: str) -> Schema:
    return {"type": "string", "const": value}


def typed(name: str, description: str = "", **more: object) -> Schema:
    return {"type": name, **({"description": description} if description else {}), **more}


_PART = {
    "anyOf": [
        {"type": "string"},
        listed(
            {"type": "object", "required": ["text"], "properties": {"text": {"type": "string"}}},
            minItems=1,
            description='vLLM\'s form: `[{"type": "text", "text": …}]`; the texts become lines.',
        ),
    ]
}
_HOLDERS = [  # what holds a text
    {"type": "string"},
    {"type": "object", "required": ["text"], "properties": {"text": _PART}},
    {
        "type": "object",
        "required": ["content"],
        "properties": {"content": _PART, "text": {"type": "null"}},
    },
]
NOTHING = [False, None, "", 0]
_WORDS = "true True 1 yes on false False 0 no off".split()
TYPES: Mapping[str, Schema] = {
    "Text": {
        "description": 'A string, or an object with it in `text` or `content`: `{"text": "…"}`.',
        "anyOf": _HOLDERS,
    },
    "Document": {
        "description": "A string, an object with it in `text` or `content`, or, with"
        " `rank_fields`, any object that has one of those fields.",
        "anyOf": [*_HOLDERS, {"type": "object", "description": "What `rank_fields` reads of it."}],
    },
    "Boolean": {
        "description": "true or false; also as a string (`true`, `1`, `yes`, `on`, `false`, `0`,"
        " `no`, `off`, in any case) or as 1 or 0. Null and an empty string are the default.",
        "enum": [True, False, None, "", 1, 0, *_WORDS],
    },
    "Count": {
        "description": 'A whole number; also as `5.0` or `"5"`. Null, an empty string and 0 are'
        " the default. Beyond 1,000,000,000 it means no more than that.",
        "anyOf": [
            {"type": "integer", "minimum": 0},
            {"type": "string", "pattern": "^( *[0-9]+ *)?$"},
            {"type": "null"},
        ],
    },
    "Integer": {
        "description": 'A whole number; also as `5.0` or `"5"`. Null and an empty string are "not'
        ' given". Beyond 1,000,000,000 it means no more than that.',
        "anyOf": [
            {"type": "integer", "minimum": -(10**9)},
            {"type": "string", "pattern": "^( *-?[0-9]{1,9} *)?$"},
            {"type": "null"},
        ],
    },
    "Cutting": {
        "description": "`END` or `NONE`, in any case, or a Boolean: true is `END`, the default.",
        "enum": ["END", "end", "NONE", "none", True, False, None, "", 1, 0, *_WORDS],
    },
    "String": {"description": 'A string; null is "not given".', "type": ["string", "null"]},
}

_TEXTS = "The texts to rank, one or more."
QUERY = ref("Text", "What is looked for.")
DOCUMENTS = listed({"$ref": "#/components/schemas/Document"}, minItems=1, description=_TEXTS)
TEXTS = listed({"$ref": "#/components/schemas/Text"}, minItems=1, description=_TEXTS)
TOP_N = ref("Count", "How many results to answer; all of them when it is left out.")
TOP_K = ref("Count", "The same as `top_n`, which counts if both are there.")
RANK_FIELDS: Schema = {
    "anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}, const("")],
    "description": "Which fields of documents that are objects are read, in this order, a line"
    " each; `text` or `content` when it is left out.",
}


def echo(default: bool, what: str = "the documents") -> Schema:
    """The field that asks for the texts in the answer."""
    return ref("Boolean", f"Whether the answer holds {what}.", default=default)


def word(*words: str, description: str) -> Schema:
    """A field that holds one of `words`, in any case."""
    return {
        "enum": [*words, *(word.lower() for word in words if word.lower() not in words), "", None],
        "description": f"{description} In any case; null and an empty string are the default.",
    }


def refused(description: str, *off: Schema) -> Schema:
    """A field that another server knows and this one takes only where it asks for nothing."""
    return {"anyOf": [{"enum": NOTHING}, *off], "description": description}


# What a template's variables may not be called: vLLM's and transformers' own arguments, by which a
# client could take the prompt's structure away.
NOT_TEMPLATES = frozenset(
    "add_generation_prompt chat_template continue_final_message conversation documents max_length"
    " messages model_config padding return_assistant_tokens_mask return_dict return_tensors self"
    " tokenize tokenizer tokenizer_kwargs tools truncation".split()
)
_LONGEST = (
    "At most so many tokens of {} are read; 0 is no limit. Beyond the model's length: no limit."
)

_OFF: Sequence[Schema] = (
    {"type": "object", "required": ["mode"], "properties": {"mode": {"const": "disabled"}}},
    {"enum": [{}, []]},
)
# What every scoring body may hold beside its own: `options.common` reads it.
COMMON: Mapping[str, Schema] = {
    "model": ref("String", "A name of `/v1/models`. Left out, empty or null: the default answers."),
    "use_llm": ref("Boolean", "true asks the LLM reranker, if there is one.", default=False),
    "use_activation": ref(
        "Boolean", "false answers the engine's raw values in place of scores.", default=True
    ),
    "raw_scores": ref("Boolean", "true: the same as `use_activation: false`.", default=False),
    "truncation": ref("Cutting", "false: a text that is too long is refused (400) and not cut."),
    "truncate": ref("Cutting", "The same as `truncation`, under another name."),
    "instruction": ref(
        "String", "Takes the place of an LLM reranker's instruction; other models refuse it (400)."
    ),
    "max_chunks_per_doc": ref(
        "Count", "Above 1: a longer text is scored in so many parts at most, and the best counts."
    ),
    "max_tokens_per_doc": ref("Count", _LONGEST.format("each text")),
    "max_tokens_per_query": ref("Count", _LONGEST.format("the query")),
    "truncate_prompt_tokens": ref(
        "Integer",
        "At most so many tokens of a pair are read; -1 is the model's length.",
        minimum=-1,
        pattern="^( *(-1|[1-9][0-9]{0,8}) *)?$",
        **{"not": {"const": 0}},
    ),
    "truncation_side": {
        "enum": ["right", None],
        "description": "Which end of an over-long text is cut; `left` is refused (400).",
    },
    "chat_template_kwargs": {
        "type": ["object", "null"],
        "properties": {"instruction": {"type": ["string", "null"]}},
        "propertyNames": {"not": {"enum": sorted(NOT_TEMPLATES)}},
        "description": "Variables of an LLM reranker's prompt template.",
    },
    "mm_processor_kwargs": {"type": ["object", "null"], "description": "Passed on to vLLM."},
    "priority": ref("Integer", "Lower numbers go first where requests wait."),
    "cache_salt": ref("String", "Passed on to vLLM."),
    "user": ref("String", "Passed on to vLLM."),
    "padding": {
        "enum": ["do_not_pad", None],
        "description": "vLLM's field; no other value is taken.",
    },
    "relevant_spans": refused('Refused (400) unless it is `{"mode": "disabled"}`.', *_OFF),
    "rewrite_query": refused("A true is refused (400): the query is scored as it is."),
    "request_id": ref("String", "An id for the answer's `id`; left out, the request's own."),
}

# -- answers -------------------------------------------------------------------------------------

INDEX = typed("integer", "The text's place in the request, counted from 0.", minimum=0)
SCORE = typed(
    "number", "The higher, the more relevant: from 0 to 1 (`use_activation: false`: any number)."
)
RAW_SCORE = typed("number", "The engine's own value, from which the score is made.")
ANSWERED_DOCUMENT = obj(
    {"text": {}}, more=True, about="The document: as it came, if that was an object."
)
ID = typed("string", "`score-` and the request's id.")
MODEL = typed("string", "The model that answered.")
_TOKENS = typed("integer", "Tokens that the engine read.", minimum=0)
TOKENS: Mapping[str, Schema] = {"prompt_tokens": _TOKENS, "total_tokens": _TOKENS}
USAGE = obj(TOKENS)
_PLACE = typed("integer", minimum=0)
CHUNK = obj(
    {name: _PLACE for name in ("index", "count", "start", "end")},
    about="Of a text that was scored in parts: the part that gave the score (`index` of `count`),"
    " the characters from `start` to `end`, exclusive.",
)
ERROR_FIELDS: Mapping[str, Schema] = {
    "id": typed("string", "The request's id, as in `x-request-id`."),
    "error": obj(
        {
            "message": typed("string"),
            "type": typed("string", "The kind of error, in a word."),
            "param": {
                "type": ["string", "null"],
                "description": "The field at fault: `documents[3]`.",
            },
            "code": typed("integer", "The HTTP status."),
        }
    ),
    "message": typed("string", "What is wrong and what to do."),
    "detail": typed("string", "The same, for clients that read this key."),
}
ERROR = obj(ERROR_FIELDS)

# -- examples ------------------------------------------------------------------------------------

QUESTION = "What is Deep Learning?"
PASSAGES = ["The weather is nice today", "Deep learning uses neural networks with many layers"]
EXAMPLE: Mapping[str, object] = {"query": QUESTION, "documents": PASSAGES}
