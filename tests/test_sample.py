"The sample in `data/` is a sound, small, ready data set"
import json
from pathlib import Path
import pytest
from manga_colorize.all import audit, manga_dls, read_image, read_metadata

DATA = Path(__file__).resolve().parent.parent/'data'

def test_every_picture_is_named_and_there():
    facts = read_metadata(DATA)
    assert 150 <= len(facts) <= 250
    assert sorted(f['file_name'] for f in facts)==sorted(p.relative_to(DATA).as_posix() for p in DATA.rglob('*.png') if p.parent.name!='card')
    assert {f['split'] for f in facts}=={'train','valid','color','transfer','interpolation'} and max(f['complexity'] for f in facts) <= 40

def test_pictures_are_square_rgb():
    for f in read_metadata(DATA)[::20]: assert read_image(DATA/f['file_name']).shape==(256,256,3)

@pytest.mark.parametrize('resident', [False, True])
def test_it_feeds_a_network(resident):
    sketch,cue,color = manga_dls(DATA, bs=4, resident=resident, device='cpu').one_batch()
    assert [tuple(x.shape) for x in (sketch,cue,color)]==[(4,1,256,256),(4,4,256,256),(4,3,256,256)]

def test_card_tells_the_truth():
    "The numbers of the card are those of the metadata"
    facts,card = read_metadata(DATA),(DATA/'README.md').read_text(encoding='utf-8')
    report = json.loads((DATA/'dataset.json').read_text(encoding='utf-8'))['report']
    assert f"{len(facts)} pictures" in card and f"{len({i for f in facts for i in f['characters']})} characters" in card
    assert all(f"| {s} | {sum(f['split']==s for f in facts)} |" in card and report[s]==sum(f['split']==s for f in facts)
               for s in ('train','valid','color','transfer','interpolation'))
    assert '(card/contact_sheet.jpg)' in card and (DATA/'card'/'contact_sheet.jpg').stat().st_size>10_000

def test_it_passes_the_audit(): assert audit(DATA).ok
