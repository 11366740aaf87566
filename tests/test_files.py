"""Json files that users give: all that can be wrong with one is a line that names it."""
import pytest

from mmprune import files
from mmprune.arguments import UserError
from mmprune.criteria.slimming_schema import SchemaError, read_schema
from mmprune.files import read_json
from mmprune.units.structure import StructureError, read_structure


@pytest.mark.parametrize(('content', 'problem'), [
    (b'{"a": 1, "a": 2}', "it has the name 'a' twice"), (b'{"a": {"b": 1, "b": 1}}', "it has the name 'b' twice"),
    (b'[' * 100000, 'too many brackets in one another'), (b'1' * 5000, 'digits'), (b'{"a": 1', 'Expecting'),
    (b'\xff\xfe', "codec can't decode"), (b'\xef\xbb\xbf{}', 'BOM')])
def test_json_that_is_not_sound(content, problem, tmp_path):
    path = tmp_path / 'x.json'
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_json(path, 'role')
    message = str(caught.value)
    assert message.startswith(f"role: '{path}' is not json (")
    assert problem in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize('name', ['.', 'x' * 5000, 'a\0b'])
def test_what_is_no_file(name):
    with pytest.raises(UserError, match=r'role: .* (cannot be read|is not json) \('):
        read_json(name, 'role')


def test_file_that_is_far_too_large(tmp_path, monkeypatch):
    """A checkpoint that is given for its structure is not read into memory."""
    monkeypatch.setattr(files, 'LARGEST_JSON', 3 << 20)
    path = tmp_path / 'x.json'
    with open(path, 'wb') as file:
        file.truncate(5 << 20)
    with pytest.raises(StructureError) as caught:
        read_structure(path)
    assert str(caught.value) == f"fix_subnet: '{path}' has 5 MB; the json file that is wanted is small"


def test_structure_with_a_name_that_is_none():
    with pytest.raises(StructureError, match='fix_subnet: None is not the name of a unit'):
        read_structure({'a': 1, None: 2})


@pytest.mark.parametrize('schema', [
    {}, {'modules': 3}, {'modules': [], 'prefix': 1}, {'modules': [], 'shortcuts': None},
    {'modules': [{'name': 1}]}, {'modules': [{'name': 'a', 'next_bn': None}]},
    {'modules': [], 'shortcuts': [{'names': [1]}]}, {'modules': [], 'shortcuts': [{'names': 'ab'}]}])
def test_schema_of_wrong_types(schema):
    with pytest.raises(SchemaError, match='^schema: '):
        read_schema(schema)
