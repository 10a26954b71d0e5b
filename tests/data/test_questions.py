"""Files of questions: their format, and the captions that questions belong to."""

import json

import pytest

from lumen.core.errors import BadSample
from lumen.data.questions import Question, group_by_caption, read_entries


def make_entry(caption, question="is it?", **options):
    return {"caption": caption, "question": question, "choices": ["yes", "no"], "answer": "yes", **options}


@pytest.mark.parametrize(
    "content", ["{}", "[1]", '[{"caption": "a", "question": "b", "answer": "c"}]', "[", '[{"caption": 1}]'],
)  # fmt: skip
def test_questions_file_of_another_format_is_refused(content, tmp_path):
    (tmp_path / "q.json").write_text(content)
    with pytest.raises(BadSample, match="q.json"):
        read_entries(tmp_path / "q.json")


def test_questions_file_is_read(tmp_path):
    entries = [make_entry("a ball", id="coco_1")]
    (tmp_path / "q.json").write_text(json.dumps(entries))
    assert read_entries(tmp_path / "q.json") == entries


def test_questions_about_captions_that_differ_in_spaces_are_joined():
    grouped = group_by_caption([make_entry("a  b\n"), make_entry(" a b", "who?"), make_entry("a b")])
    assert [question.text for question in grouped["a b"]] == ["is it?", "who?"] and len(grouped) == 1


def test_question_representation_is_stable():
    """Hashes of protocols contain it."""
    [question] = group_by_caption([make_entry("a b", element_type="object")])["a b"]
    assert repr(question) == "Question(text='is it?', choices=('yes', 'no'), answer='yes', kind='object')"
    assert question == Question("is it?", ("yes", "no"), "yes", "object")
