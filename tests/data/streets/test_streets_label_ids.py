"""The label ids of street scenes."""

from mtlflax.data import labels
from mtlflax.data.streets import label_ids


def test_ids_are_those_of_the_official_table():
    official = {row.name.replace(" ", "_").upper(): row.id for row in labels.LABELS}
    ids = {name: value for name, value in vars(label_ids).items() if name.isupper()}
    assert "ROAD" in ids
    assert ids == {name: official[name] for name in ids}
