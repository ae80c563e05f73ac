"The one reader of pictures: every form that people send, and none that runs a program"
import numpy as np,pytest
from io import BytesIO
from PIL import Image,ImageCms
from fixtures import bombs,damaged,encode,picture,whole_files
from manga_colorize.core import decode_image,image_array,read_image,to_image
from manga_colorize.dataset.reading import read_color
from manga_colorize.colorizer.inputs import read_cue,read_sketch
from manga_colorize.evaluate.adherence import ciede2000,rgb_to_lab

TRUE = picture(1,48,64)

@pytest.fixture(scope='module')
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp('files')
    for name,data in whole_files().items(): (folder/name).write_bytes(data)
    return folder

@pytest.mark.parametrize('name', whole_files())
def test_every_form(name, files):
    a = read_image(files/name)
    shape = (64,48) if name.startswith('turned') else (48,64)
    alpha = name in ('alpha.png','lossless.webp','deflate.tif')
    assert a.dtype==np.uint8 and a.shape==(*shape, 4 if alpha else 3)
    assert (to_image(files/name)==to_image(Image.open(files/name))).all()               # a file, or what Pillow makes of it
    assert (read_color(files/name)==to_image(files/name)).all()                         # a data set reads the same
    assert read_sketch(files/name).shape==shape and read_cue(files/name).shape==(4,*shape)

@pytest.mark.parametrize('name', ['a.png','a.bmp','a.tif','lzw.tif'])
def test_whole_forms_are_exact(name, files): assert (read_image(files/name)==TRUE).all()

def test_sixteen_bits_become_eight(files):
    for name in ('deep.png','deep.tif'): assert (read_image(files/name)[...,0]==TRUE[...,0]).all()

def test_alpha_is_kept(files): assert (read_image(files/'alpha.png')[...,3]==90).all() and (read_image(files/'alpha.png')[...,:3]==TRUE).all()

# ---------- profiles

def wide_profile():
    "A profile whose primaries are those of Adobe RGB, made from nothing: red, green and blue in XYZ under D50, gamma 2.2"
    import struct
    fixed = lambda x: struct.pack('>i', round(x*65536))
    xyz = lambda *v: b'XYZ \0\0\0\0'+b''.join(map(fixed,v))
    text = b'desc\0\0\0\0'+struct.pack('>I',5)+b'wide\0'+bytes(8+3+67)
    curve = b'curv\0\0\0\0'+struct.pack('>IH',1,round(2.19921875*256))
    tags = {b'desc':text, b'cprt':b'text\0\0\0\0none\0', b'wtpt':xyz(.9642,1,.8249), b'rXYZ':xyz(.60974,.31111,.01947),
            b'gXYZ':xyz(.20528,.62567,.06087), b'bXYZ':xyz(.14919,.06322,.74457), b'rTRC':curve, b'gTRC':curve, b'bTRC':curve}
    at,table,body = 128+4+12*len(tags),b'',b''
    for name,data in tags.items():
        data += bytes(-len(data)%4); table += name+struct.pack('>II',at+len(body),len(data)); body += data
    head = struct.pack('>I',at+len(body))+b'\0\0\0\0\x02\x40\0\0mntrRGB XYZ '+struct.pack('>6H',2026,1,1,0,0,0)
    head += b'acsp'+bytes(28)+fixed(.9642)+fixed(1)+fixed(.8249)
    return head.ljust(128,b'\0')+struct.pack('>I',len(tags))+table+body

@pytest.fixture(scope='module')
def wide():
    profile = ImageCms.ImageCmsProfile(BytesIO(wide_profile()))
    return ImageCms.profileToProfile(Image.fromarray(TRUE//2+64), ImageCms.createProfile('sRGB'), profile, outputMode='RGB'),profile.tobytes()

def off(a, b): return float(ciede2000(rgb_to_lab(a), rgb_to_lab(b)).mean())

@pytest.mark.parametrize('kind,kwargs', [('PNG',{}),('JPEG',dict(quality=97,subsampling=0)),('TIFF',{}),('WEBP',dict(lossless=True))])
def test_profiles_are_followed(wide, tmp_path, kind, kwargs):
    "Colours come out as they were meant, not as their numbers say"
    im,icc = wide; im.save(tmp_path/'x', kind, icc_profile=icc, **kwargs)
    assert off(np.array(im), TRUE//2+64)>2 and off(read_image(tmp_path/'x'), TRUE//2+64)<1.5
    assert (image_array(Image.open(tmp_path/'x'))==read_image(tmp_path/'x')).all() and (read_color(tmp_path/'x')==read_image(tmp_path/'x')).all()

@pytest.mark.parametrize('kind,kwargs', [('PNG',{}),('JPEG',dict(quality=97,subsampling=0)),('TIFF',{})])
def test_profiles_of_turned_pictures(wide, tmp_path, kind, kwargs):
    im,icc = wide; exif = Image.Exif(); exif[274] = 6
    im.save(tmp_path/'x', kind, icc_profile=icc, exif=exif, **kwargs)
    assert off(read_image(tmp_path/'x'), np.rot90(TRUE//2+64, -1))<1.5

def test_profiles_and_alpha(wide, tmp_path):
    im,icc = wide; im = im.copy(); im.putalpha(77); im.save(tmp_path/'x.png', icc_profile=icc)
    a = read_image(tmp_path/'x.png')
    assert a.shape[2]==4 and (a[...,3]==77).all() and off(a[...,:3], TRUE//2+64)<1.5

sRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()

@pytest.mark.parametrize('icc', [b'nonsense', wide_profile()[:200], sRGB], ids=['nonsense','cut','sRGB'])
def test_profiles_that_change_nothing(icc, tmp_path):
    Image.fromarray(TRUE).save(tmp_path/'x.png', icc_profile=icc)
    assert (read_image(tmp_path/'x.png')==TRUE).all()

# ---------- what is refused

def test_postscript_is_never_opened(tmp_path, monkeypatch):
    from PIL import EpsImagePlugin
    def started(*a, **k): raise AssertionError('Pillow was about to read PostScript')
    monkeypatch.setattr(EpsImagePlugin.EpsImageFile, '_open', started); monkeypatch.setattr(EpsImagePlugin, 'Ghostscript', started)
    (tmp_path/'page.png').write_bytes(b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n')
    with pytest.raises(ValueError, match='expected a JPEG, PNG, WebP, GIF, BMP or TIFF picture, got .*page.png'): read_image(tmp_path/'page.png')

def test_missing_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError): read_image(tmp_path/'none.png')

@pytest.mark.parametrize('name,data', bombs().items())
def test_bombs_are_refused(name, data, tmp_path):
    (tmp_path/name).write_bytes(data)
    with pytest.raises(ValueError, match=name.split('.')[0]): read_image(tmp_path/name)

def test_damage_is_an_error_that_names_the_file(tmp_path):
    "Read or refused, never anything else"
    refused = 0
    for name,data in damaged(300):
        f = tmp_path/'x.png'; f.write_bytes(data)
        try: assert read_image(f).ndim==3
        except ValueError as e: refused += 1; assert 'x.png' in str(e)
    assert refused>50

def test_a_jpeg_may_come_smaller():
    data = encode(picture(3,800,1200),'JPEG')
    a,whole = decode_image(data, 100)
    assert whole==(800,1200) and min(a.shape[:2])>=200 and a.shape[0]<800 and decode_image(data)[0].shape==(800,1200,3)
