"""How fields are read, whatever the dialect: a table for each reader, and the options of all."""

from typing import Any

import pytest

from serve.dialects import documents, mixedbread, nim, pinecone, simple, tei, vllm_score
from serve.dialects.base import Body, Dialect
from serve.dialects.fields import boolean, check_lists, choice, count, optional_text, text, whole
from serve.dialects.fields import documents as read_documents
from serve.dialects.options import ENGINE_FIELDS, common
from serve.errors import InvalidRequest, TooLarge

GOOD: dict[str, Any] = {"query": "q", "documents": ["a"]}


def refused(error: pytest.ExceptionInfo[InvalidRequest], param: str, words: str) -> None:
    assert error.value.param == param
    assert error.value.message.startswith(param.split("[")[0].split(".")[0])
    assert words in error.value.message


# -- the readers -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((value, True) for value in (True, 1, "true", "True", "TRUE", "1", "yes", "On")),
        *((value, False) for value in (False, 0, "false", "False", "0", "no", "OFF")),
        *((value, None) for value in (None, "")),
    ],
)
def test_booleans(value: object, expected: bool | None):
    for default in (True, False):
        wanted = default if expected is None else expected
        assert boolean({"x": value}, "x", default=default) is wanted
        assert boolean({}, "x", default=default) is default


@pytest.mark.parametrize("value", [2, -1, 1.0, "maybe", " true", [], {}, [True], "null"])
def test_what_is_no_boolean(value: object):
    with pytest.raises(InvalidRequest) as error:
        boolean({"x": value}, "x", default=True)
    refused(error, "x", "must be true or false")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((value, None) for value in (None, "")),
        *((value, 5) for value in (5, 5.0, "5", " 5 ", "005", "0" * 40 + "5")),
        *((value, 0) for value in (0, 0.0, "0", -0.0, "-0", "000")),
        *((value, -3) for value in (-3, -3.0, "-3", "-03")),
        *((value, 10**9) for value in (10**9, 10**19, 1e300, "9" * 12, "9" * 5000, "1000000000")),
    ],
)
def test_whole_numbers(value: object, expected: int | None):
    assert whole({"x": value}, "x", "a whole number", least=-3) == expected


@pytest.mark.parametrize(
    "value",
    [
        *(True, False, 1.5, "1.5", "5.0", "five", "+5", "--5", "- 5", "5-", "1e3", "0x5", "½", "²"),
        *([], {}, [5], -4, "-4", -1e300, "-" + "9" * 5000, float("inf"), float("nan"), " "),
    ],
)
def test_what_is_no_whole_number(value: object):
    with pytest.raises(InvalidRequest) as error:
        whole({"x": value}, "x", "a whole number from -3", least=-3)
    refused(error, "x", "must be a whole number from -3")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, None),
        ({"top_n": None, "top_k": None}, None),
        ({"top_n": 0, "top_k": 7}, None),  # the first that is given counts
        ({"top_n": 3, "top_k": 7}, 3),
        ({"top_n": None, "top_k": 7}, 7),
        ({"top_n": "", "top_k": "7"}, 7),
    ],
)
def test_counts(body: Body, expected: int | None):
    assert count(body, "top_n", "top_k") == expected


def test_a_count_is_never_negative():
    with pytest.raises(InvalidRequest) as error:
        count({"top_k": -1}, "top_n", "top_k")
    refused(error, "top_k", "a whole number, 0 or more (0 for the default)")


def test_choices():
    for value in ("NONE", "none", "None"):
        assert choice({"x": value}, "x", "NONE", "END") == "NONE"
    for value in (None, ""):
        assert choice({"x": value}, "x", "NONE", "END") is None
    for value in ("START", 1, True, ["NONE"], {"NONE": 1}):
        with pytest.raises(InvalidRequest) as error:
            choice({"x": value}, "x", "NONE", "END")
        refused(error, "x", "must be one of NONE, END")


@pytest.mark.parametrize("value", [3, True, [], {}, ["m"]])
def test_an_optional_text_is_a_string(value: object):
    assert optional_text({"x": ""}, "x") is optional_text({"x": None}, "x") is None
    with pytest.raises(InvalidRequest) as error:
        optional_text({"x": value}, "x")
    refused(error, "x", "must be a string")


PARTS = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", ""),
        ("a\x00\u2028🙂", "a\x00\u2028🙂"),
        ({"text": "a"}, "a"),
        ({"text": "", "content": "b"}, ""),
        ({"text": None, "content": "b", "id": 1}, "b"),
        ({"content": PARTS}, "a\nb"),
        ({"text": PARTS[:1]}, "a"),
    ],
)
def test_texts(value: object, expected: str):
    assert text({"query": value}, "query") == expected
    if not isinstance(value, str):
        assert read_documents({"documents": ["x", value]}, "documents") == (
            ["x", expected],
            ["x", value],
        )


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, "null or missing"),
        (3, "a number"),
        (0.5, "a number"),
        (True, "a boolean"),
        (["q"], "a list"),
        ({"x": "q"}, "an object"),
        ({"text": 3}, "an object"),
        ({"content": []}, "an object"),
        ({"content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "an object"),
        ({"content": ["a"]}, "an object"),
    ],
)
def test_what_is_no_text(value: object, kind: str):
    with pytest.raises(InvalidRequest) as error:
        text({"query": value}, "query")
    refused(error, "query", f"must be a string; it is {kind}")
    for dialect, name in ((tei.DIALECT, "texts"), (nim.OWN_PATHS, "passages")):
        with pytest.raises(InvalidRequest) as error:
            dialect.parse({"query": "q", name: ["a", value]})
        refused(error, f"{name}[1]", f'it is {kind}: send a string or {{"text": …}}')
    for dialect, name in ((documents.V1, "documents"), (mixedbread.DIALECT, "input")):
        with pytest.raises(InvalidRequest) as error:
            dialect.parse({"query": "q", name: ["a", "b", value]})
        remedy = "name its fields in `rank_fields`" if isinstance(value, dict) else kind
        refused(error, f"{name}[2]", remedy)


BOOK = {"title": "T", "text": "x", "tags": ["a", 1], "year": 1999, "sub": None}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (["title"], "T"),
        (["text", "title"], "x\nT"),
        (["tags", "year"], '["a",1]\n1999'),
        (["sub", "title", "nowhere"], "T"),
        ([], "x"),
        (None, "x"),
        ("", "x"),
    ],
)
def test_rank_fields_are_read_in_their_order(fields: object, expected: str):
    found, originals = read_documents({"d": [BOOK, "s"], "rank_fields": fields}, "d")
    assert (found, originals) == ([expected, "s"], [BOOK, "s"])


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"rank_fields": ["sub"]}, "documents[1]", "none of the rank_fields (sub)"),
        ({"rank_fields": "title"}, "rank_fields", "must be a list; it is a string"),
        ({"rank_fields": ["title", 3]}, "rank_fields[1]", "it is a number"),
    ],
)
def test_rank_fields_that_do_not_fit(body: Body, param: str, words: str):
    with pytest.raises(InvalidRequest) as error:
        documents.V2.parse({"query": "q", "documents": ["a", BOOK], **body})
    refused(error, param, words)


def test_a_document_does_not_grow_by_names_that_are_repeated():
    found, _ = read_documents({"d": [BOOK], "rank_fields": ["text", "title"] * 10_000}, "d")
    assert found == ["x\nT"]
    with pytest.raises(InvalidRequest) as error:
        read_documents({"d": [BOOK], "rank_fields": [str(n) for n in range(101)]}, "d")
    refused(error, "rank_fields", "has 101 names and the limit is 100: send fewer")


def test_lists_of_too_many_are_refused_before_they_are_read():
    check_lists({"d": [{}] * 5, "x": [{}] * 6, "n": None}, ("d", "n", "nowhere"), 5)
    with pytest.raises(TooLarge, match="d has 6 texts and the limit is 5: send them in") as error:
        check_lists({"q": "q", "d": [{}] * 6}, ("q", "d"), 5)
    assert error.value.param == "d"


def nested(depth: int) -> object:
    return [nested(depth - 1)] if depth else 1


@pytest.mark.parametrize("dialect", [documents.V2, pinecone.DIALECT])
def test_a_document_that_could_not_be_answered_is_refused(dialect: Dialect):
    body = {"query": "q", "documents": ["a", {"text": "b", "more": nested(300)}]}
    with pytest.raises(InvalidRequest) as error:
        dialect.parse(body)
    refused(error, "documents[1]", "nested too deeply: send its text alone")
    assert dialect.parse({"query": "q", "documents": ["a", {"text": "b", "more": nested(200)}]})


@pytest.mark.parametrize("name", ["chat_template_kwargs", "mm_processor_kwargs"])
def test_an_option_that_could_not_be_sent_on_is_refused(name: str):
    with pytest.raises(InvalidRequest) as error:
        common({name: {"x": nested(900)}})
    refused(error, name, "nested too deeply")
    assert common({name: {"x": nested(200)}})["options"]


# -- options -----------------------------------------------------------------------------------


def test_options_that_are_nulls_are_not_there():
    assert common(dict.fromkeys(ENGINE_FIELDS))["options"] == {}


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ({"truncate_prompt_tokens": "-1"}, {"truncate_prompt_tokens": -1}),
        ({"truncate_prompt_tokens": 10**30}, {"truncate_prompt_tokens": 10**9}),
        ({"max_tokens_per_doc": 4096.0}, {"max_tokens_per_doc": 4096}),
        ({"max_tokens_per_doc": 0, "max_tokens_per_query": ""}, {"max_tokens_per_doc": 0}),
        ({"truncation_side": "Right"}, {}),  # where every text is cut anyway
        ({"truncation_side": "", "padding": "", "cache_salt": "", "user": ""}, {}),
        ({"instruction": ""}, {"instruction": ""}),
        ({"padding": "do_not_pad"}, {"padding": "do_not_pad"}),
        ({"priority": "-5", "cache_salt": "s", "user": "u"}, None),
        ({"instruction": "i", "chat_template_kwargs": {"x": 1}, "mm_processor_kwargs": {}}, None),
    ],
)
def test_options_pass_through(given: Body, options: dict[str, object] | None):
    found = documents.V2.parse({**GOOD, **given}).options
    expected = {**given, "priority": -5} if "priority" in given else given
    assert found == (expected if options is None else options)


@pytest.mark.parametrize(
    ("given", "param", "words"),
    [
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens", "-1 (the model's length) or at"),
        ({"truncate_prompt_tokens": -2}, "truncate_prompt_tokens", "at least 1"),
        ({"truncate_prompt_tokens": "x"}, "truncate_prompt_tokens", "a whole number"),
        ({"max_tokens_per_doc": -2}, "max_tokens_per_doc", "0 for no limit"),
        ({"max_tokens_per_query": True}, "max_tokens_per_query", "0 for no limit"),
        ({"priority": 1.5}, "priority", "a whole number"),
        ({"truncation_side": "top"}, "truncation_side", "one of left, right"),
        ({"truncation_side": "Left"}, "truncation_side", "send the end of a long text"),
        ({"padding": "max_length"}, "padding", "change the scores: leave it out"),
        ({"padding": 3}, "padding", "'do_not_pad'; it is a number"),
        ({"user": ["u"]}, "user", "a string; it is a list"),
        ({"instruction": 3}, "instruction", "a string; it is a number"),
        ({"chat_template_kwargs": "x"}, "chat_template_kwargs", "an object; it is a string"),
        ({"chat_template_kwargs": []}, "chat_template_kwargs", "an object; it is a list"),
        (
            {"chat_template_kwargs": {"messages": []}},
            "chat_template_kwargs.messages",
            "no variable of a template",
        ),
        (
            {"chat_template_kwargs": {"continue_final_message": None}},
            "chat_template_kwargs.continue_final_message",
            "no variable of a template",
        ),
        (
            {"chat_template_kwargs": {"instruction": 3}},
            "chat_template_kwargs.instruction",
            "must be a string",
        ),
        ({"max_chunks_per_doc": -1}, "max_chunks_per_doc", "0 for the default"),
        ({"use_llm": "maybe"}, "use_llm", "true or false"),
        ({"use_activation": 2}, "use_activation", "true or false"),
        ({"model": 3}, "model", "a string"),
        ({"request_id": {}}, "request_id", "a string"),
    ],
)
@pytest.mark.parametrize(
    ("dialect", "body"),
    [
        (simple.DIALECT, {"query": "q", "passages": ["a"]}),
        (documents.VLLM, GOOD),
        (vllm_score.DIALECT, {"text_1": "q", "text_2": ["a"]}),
        (tei.DIALECT, {"query": "q", "texts": ["a"]}),
        (nim.OWN_PATHS, {"query": {"text": "q"}, "passages": [{"text": "a"}]}),
        (mixedbread.DIALECT, {"query": "q", "input": ["a"]}),
        (pinecone.DIALECT, {**GOOD, "parameters": {}}),
    ],
    ids=lambda value: value.name if isinstance(value, Dialect) else "",
)
def test_every_dialect_checks_the_options(
    dialect: Dialect, body: Body, given: Body, param: str, words: str
):
    with pytest.raises(InvalidRequest) as error:
        dialect.parse({**body, **given})
    refused(error, param, words)
