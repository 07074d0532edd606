"""What reading an image promises: upright, 8 bits, RGB, the same whatever it comes from; and broken ones are found."""

import struct
import warnings
import zlib
from contextlib import suppress

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, UnidentifiedImageError

from busfast.data.images import load_pixels, read_image, resize_image, why_unreadable
from busfast.data.sources.listing import is_image

RED, GREEN, BLUE = (220, 30, 40), (20, 200, 60), (30, 40, 210)


@pytest.fixture
def rgb():
    """Four patches of different colors, 48 x 32."""
    array = np.zeros((32, 48, 3), np.uint8)
    array[:16, :24], array[:16, 24:], array[16:, :24], array[16:, 24:] = RED, GREEN, BLUE, (128, 128, 128)
    return array


@pytest.fixture
def gray():
    return np.arange(32 * 48, dtype=np.uint16).reshape(32, 48).astype(np.uint8)


def pixels(source):
    image = read_image(source)
    assert image.mode == "RGB"
    return np.asarray(image)


def unreadable(path):
    try:
        read_image(path)
    except Exception as error:
        return why_unreadable(error)
    return ""


def saved(image, path, **options):
    Image.fromarray(image).save(path, **options) if isinstance(image, np.ndarray) else image.save(path, **options)
    return path


def test_rgb_is_read_as_it_is(tmp_path, rgb):
    assert (pixels(saved(rgb, tmp_path / "a.png")) == rgb).all()


def test_gray_is_repeated_in_three_channels(tmp_path, gray):
    assert (pixels(saved(gray, tmp_path / "a.png")) == gray[..., None]).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_dropped_and_the_colours_below_it_stay(tmp_path, rgb, mode):
    below = Image.fromarray(rgb).convert(mode.removesuffix("A"))
    image = below.convert(mode)
    image.putalpha(Image.fromarray(np.tile(np.arange(48, dtype=np.uint8), (32, 1))))
    assert (pixels(saved(image, tmp_path / "a.png")) == np.asarray(below.convert("RGB"))).all()


@pytest.mark.filterwarnings("error")  # Pillow's own, too: one a file would bury the log
@pytest.mark.parametrize("transparency", [None, 1, bytes([0, 80, 160, 255])])
def test_a_palette_is_looked_up_and_its_transparency_dropped(tmp_path, rgb, transparency):
    image = Image.fromarray(rgb).quantize(4)
    options = {} if transparency is None else {"transparency": transparency}
    assert (pixels(saved(image, tmp_path / "a.png", **options)) == np.asarray(image.convert("RGB"))).all()


def test_a_cmyk_jpeg_keeps_its_colours(tmp_path, rgb):
    path = saved(Image.fromarray(rgb).convert("CMYK"), tmp_path / "a.jpg", quality=95)
    assert np.abs(pixels(path).astype(int) - rgb)[4:-4:8, 4:-4:8].max() < 12


def test_one_bit_becomes_black_and_white(tmp_path, gray):
    bits = gray > 100
    assert (pixels(saved(bits, tmp_path / "a.png")) == np.where(bits, 255, 0)[..., None]).all()


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize(("low", "high"), [(0, 4095), (1000, 1100), (0, 65535)])
def test_more_than_8_bits_are_stretched_from_darkest_to_brightest(tmp_path, suffix, low, high):
    values = np.linspace(low, high, 40 * 50).round().astype(np.uint16).reshape(40, 50)
    seen = pixels(saved(values, tmp_path / f"a{suffix}"))[..., 0]
    assert (seen[0, 0], seen[-1, -1]) == (0, 255)
    assert (np.diff(seen.ravel().astype(int)) >= 0).all()
    assert seen.mean() == pytest.approx(127.5, abs=1)


def test_a_float_tiff_is_stretched_too(tmp_path):
    values = np.linspace(-0.5, 0.25, 40 * 50, dtype=np.float32).reshape(40, 50)
    seen = pixels(saved(values, tmp_path / "a.tif"))[..., 0]
    assert seen.ravel().tolist() == np.round(np.linspace(0, 255, 40 * 50)).astype(int).tolist()


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_a_constant_deep_image_is_black(tmp_path, dtype):
    assert not pixels(saved(np.full((8, 9), 700, dtype), tmp_path / "a.tif")).any()


UPRIGHT = {
    1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["rgb.jpg", "gray.jpg", "rgb.png", "deep.png"])
def test_an_image_is_turned_upright_by_its_exif(tmp_path, rgb, gray, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    array = {"rgb": rgb, "gray": gray, "deep": gray.astype(np.uint16) * 16}[kind.partition(".")[0]]
    turned, plain = saved(array, tmp_path / kind, exif=exif), saved(array, tmp_path / f"plain_{kind}")
    assert (pixels(turned) == UPRIGHT[orientation](pixels(plain))).all()
    assert (pixels(read_image(turned)) == pixels(turned)).all()  # once


@pytest.mark.filterwarnings("ignore")  # Pillow's own
@pytest.mark.parametrize("exif", [b"Exif\0\0not exif at all", b"Exif\0\0MM\0*\0\0\0\x08"])
def test_a_damaged_exif_does_not_hide_the_image(tmp_path, rgb, exif):
    path = saved(rgb, tmp_path / "a.jpg", exif=exif)
    assert unreadable(path) == ""
    assert pixels(path).shape == rgb.shape


def test_path_bytes_image_and_array_read_the_same(tmp_path, rgb):
    path = saved(rgb, tmp_path / "a.png")
    for source in (str(path), path.read_bytes(), Image.fromarray(rgb), rgb):
        assert (pixels(source) == rgb).all()


@pytest.fixture
def deep():
    """Color of 12 bits in 16, and what is expected of it: all channels stretched by one rule."""
    values = np.random.default_rng(0).integers(100, 4000, (20, 30, 3)).astype(np.uint16)
    values[0, 0], values[-1, -1] = 0, 4095
    return values, np.round(values * (255 / 4095)).astype(np.uint8)


@pytest.mark.parametrize("kind", ["png", "png with alpha", "tiff", "tiff, LZW", "tiff in planes",
                                  "tiff in planes, zip"])
def test_color_of_16_bits_is_stretched_as_one(tmp_path, deep, kind):
    values, expected = deep
    path = tmp_path / f"a.{'png' if kind.startswith('png') else 'tif'}"
    if kind == "tiff, LZW" or kind.startswith("png"):
        alpha = np.full((20, 30, 1), 65535, np.uint16)
        cv2.imwrite(str(path), np.dstack([values[..., ::-1], alpha]) if "alpha" in kind else values[..., ::-1])
    else:
        tifffile.imwrite(path, np.moveaxis(values, -1, 0) if "planes" in kind else values, photometric="rgb",
                         planarconfig="separate" if "planes" in kind else "contig",
                         compression="zlib" if "zip" in kind else None)
    assert (pixels(path) == expected).all()
    assert (pixels(path.read_bytes()) == expected).all()


@pytest.mark.parametrize("orientation", [3, 6])
def test_color_of_16_bits_is_turned_upright(tmp_path, deep, orientation):
    tifffile.imwrite(tmp_path / "a.tif", deep[0], photometric="rgb", extratags=[(274, 3, 1, orientation)])
    assert (pixels(tmp_path / "a.tif") == UPRIGHT[orientation](deep[1])).all()


def test_gray_of_16_bits_with_transparency_is_stretched(tmp_path):
    values = np.linspace(50, 900, 20 * 30).round().astype(np.uint16).reshape(20, 30)
    expected = pixels(saved(values, tmp_path / "plain.png"))
    both = np.dstack([values, np.full_like(values, 30_000)])
    tifffile.imwrite(tmp_path / "a.tif", both, photometric="minisblack", extrasamples=["unassalpha"],
                     planarconfig="contig")
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in both)
    write_png(tmp_path / "a.png", (30, 20, 16, 4), rows)
    for name in ("a.tif", "a.png"):
        assert (pixels(tmp_path / name) == expected).all(), name
        assert read_image(tmp_path / name, keep_gray=True).mode == "L"


def write_png(path, header, rows, *chunks):
    """Writes a PNG of width, height, bits and color type, and of its rows; `chunks` come before these."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", *header, 0, 0, 0))
                     + b"".join(chunk(*one) for one in chunks) + chunk(b"IDAT", zlib.compress(rows))
                     + chunk(b"IEND", b""))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_white_is_zero_is_read_as_viewers_show_it(tmp_path, gray, dtype):
    values = gray.astype(dtype) * (257 if dtype == np.uint16 else 1)
    tifffile.imwrite(tmp_path / "white.tif", values.max() - values, photometric="miniswhite")
    assert (pixels(tmp_path / "white.tif") == gray[..., None]).all()


def test_unsigned_numbers_of_32_bits_do_not_wrap(tmp_path):
    values = np.linspace(0, 2**32 - 1, 20 * 30).astype(np.uint32).reshape(20, 30)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack")
    assert (np.diff(pixels(tmp_path / "a.tif")[..., 0].ravel().astype(int)) >= 0).all()
    signed = values.astype(np.int64) - 2**31
    tifffile.imwrite(tmp_path / "b.tif", signed.astype(np.int32), photometric="minisblack")
    assert np.abs(pixels(tmp_path / "b.tif").astype(int) - pixels(tmp_path / "a.tif")).max() <= 1


@pytest.mark.parametrize("bits", [8, 16])
def test_a_color_map_of_8_bits_in_16_is_not_black(tmp_path, gray, bits):
    colors = np.random.default_rng(0).integers(0, 256, (3, 256)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", gray, photometric="palette", colormap=colors * (257 if bits == 16 else 1))
    assert (pixels(tmp_path / "a.tif") == colors.T[gray]).all()


def test_transparency_that_the_gray_is_multiplied_with_is_dropped_like_other(tmp_path, gray):
    tifffile.imwrite(tmp_path / "a.tif", np.dstack([gray, np.full_like(gray, 255)]), photometric="minisblack",
                     extrasamples=["assocalpha"], planarconfig="contig")
    with suppress(UnidentifiedImageError), Image.open(tmp_path / "a.tif") as image:  # of Pillow before 13
        assert image.mode == "La"
    assert (pixels(tmp_path / "a.tif") == gray[..., None]).all()


def test_a_bitmap_of_5_6_and_5_bits_is_read(tmp_path, rgb):
    packed = (rgb[::-1].astype(int) >> [3, 2, 3]) @ [1 << 11, 1 << 5, 1]
    head = struct.pack("<IiiHHIIiiII3I", 40, 48, 32, 1, 16, 3, 48 * 32 * 2, 0, 0, 0, 0, 0xF800, 0x7E0, 0x1F)
    (tmp_path / "a.bmp").write_bytes(b"BM" + struct.pack("<IHHI", 66 + 48 * 32 * 2, 0, 0, 66) + head
                                     + packed.astype("<u2").tobytes())
    assert np.abs(pixels(tmp_path / "a.bmp").astype(int) - rgb).max() <= 8


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">' \
      b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'


def test_only_exif_turns_an_image(tmp_path, rgb):
    path = saved(rgb, tmp_path / "a.jpg", xmp=XMP)
    assert b"tiff:Orientation" in path.read_bytes() and pixels(path).shape == rgb.shape


@pytest.mark.parametrize("cut", [1, 2])
@pytest.mark.parametrize(("mode", "options"), [("RGB", {}), ("L", {}), ("RGB", {"restart_marker_blocks": 2}),
                                               ("L", {"restart_marker_rows": 1})])
def test_a_jpeg_that_lacks_only_its_end_marker_is_read(tmp_path, rgb, mode, options, cut):
    for side in range(24, 48):  # some end on a whole byte, some do not
        path = saved(Image.fromarray(rgb[:, :side]).convert(mode), tmp_path / "a.jpg", **options)
        whole, data = pixels(path), path.read_bytes()
        path.write_bytes(data[:-cut])
        assert (pixels(path) == whole).all()
        assert np.array_equal(load_pixels(path, 16), load_pixels(data, 16))


def test_a_jpeg_that_lacks_pixels_is_refused_and_said_to_be_cut_off(tmp_path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8))
    for options in ({}, {"progressive": True}, {"restart_marker_rows": 1}):
        data = saved(image, tmp_path / "a.jpg", **options).read_bytes()
        for cut in (5, 40, len(data) // 2):
            (tmp_path / "a.jpg").write_bytes(data[:-cut])
            assert "the file is cut off: copy it again" in unreadable(tmp_path / "a.jpg"), (options, cut)


def lossless_jpeg(value):
    """A lossless JPEG, 16 x 16, all of one gray value from 129 to 255: only the first difference is not 0."""
    table = bytes([1, 1] + [0] * 14) + bytes([0, 7])  # codes: 0 -> no difference, 10 -> one of 7 bits
    bits = "10" + f"{value - 128:07b}" + "0" * 255
    bits += "1" * (-len(bits) % 8)
    scan = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")

    def segment(marker, data):
        return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data
    return b"\xff\xd8" + segment(0xC3, struct.pack(">BHHBBBB", 8, 16, 16, 1, 1, 0x11, 0)) + \
        segment(0xC4, b"\0" + table) + segment(0xDA, bytes([1, 1, 0, 1, 0, 0])) + scan + b"\xff\xd9"


def test_a_lossless_jpeg_is_read_where_a_smaller_one_would_do():
    assert (pixels(lossless_jpeg(200)) == 200).all()
    assert (np.asarray(read_image(lossless_jpeg(200), enough=4)) == 200).all()


@pytest.mark.parametrize(("suffix", "format"), [
    ("webp", "WEBP"), ("gif", "GIF"), ("pgm", "PPM"), ("ppm", "PPM"), ("pbm", "PPM"), ("jp2", "JPEG2000"),
    ("jfif", "JPEG"), ("dib", "DIB"), ("apng", "PNG"), ("tiff", "TIFF")])
def test_files_of_each_format_are_found_and_read(tmp_path, gray, suffix, format):
    path = tmp_path / f"a.{suffix.upper()}"
    Image.fromarray(gray > 100 if suffix == "pbm" else gray).save(path, format=format)
    assert is_image(path.name) and pixels(path).shape == (32, 48, 3)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_float_image_with_a_number_that_is_none_is_refused(value):
    with pytest.raises(ValueError, match="not finite"):
        read_image(np.array([[0.0, 1.0], [value, 0.5]], np.float32))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_an_array_of_one_channel_is_gray(gray, dtype):
    assert (pixels(gray.astype(dtype)) == gray[..., None]).all()


def test_the_given_image_stays_as_it_was(rgb):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(rgb).quantize(4)
    image.info |= {"exif": exif.tobytes(), "transparency": 1}
    before = image.tobytes(), image.size, dict(image.info)
    read_image(image)
    assert (image.tobytes(), image.size, image.info) == before


def test_the_first_page_of_a_tiff_is_read(tmp_path, rgb):
    Image.fromarray(rgb).save(tmp_path / "a.tif", save_all=True, append_images=[Image.fromarray(rgb[::-1])])
    assert (pixels(tmp_path / "a.tif") == rgb).all()


@pytest.mark.parametrize("name", ["pages.tif", "half.png"])
def test_no_file_is_left_open(tmp_path, rgb, name):
    path = saved(rgb, tmp_path / name, **({"save_all": True, "append_images": [Image.fromarray(rgb)]}
                                          if name == "pages.tif" else {}))
    if name == "half.png":
        path.write_bytes(path.read_bytes()[:-50])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            read_image(path)
        except OSError:
            assert name == "half.png"
    assert [str(one.message) for one in caught if name in str(one.message)] == []


@pytest.mark.parametrize("channels", ["rgb", "gray"])
@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
@pytest.mark.parametrize("size", [(1, 500), (500, 1), (1, 1), (64, 64), (300, 200), (31, 97)])
def test_any_image_fits_the_square(size, resize, channels):
    fitted = resize_image(Image.new("RGB", size, RED), 64, resize, channels)
    assert (fitted.mode, fitted.size) == ("RGB", (64, 64))
    assert np.asarray(fitted).max() > 50


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
@pytest.mark.parametrize("size", [(1, 500), (500, 1), (64, 64), (300, 200), (31, 97)])
def test_any_image_fits_height_and_width(size, resize):
    assert resize_image(Image.new("RGB", size, RED), (48, 80), resize).size == (80, 48)
    random = Image.effect_noise(size, 60)
    same = [np.asarray(resize_image(random, side, resize)) for side in (64, (64, 64))]
    assert np.array_equal(*same)


def test_crop_and_pad_keep_the_aspect_of_what_is_not_square():
    image = thirds(300, 100)
    crop = np.asarray(resize_image(image, (50, 100), "crop"))  # the middle 200 x 100: half of red and blue
    assert (crop[:, 2:23] == RED).all() and (crop[:, 27:73] == GREEN).all() and (crop[:, 77:98] == BLUE).all()
    pad = np.array(resize_image(image, (60, 90), "pad"))
    assert (pad[15:45, 2:28] == RED).all() and not pad[:15].any() and not pad[45:].any()
    tall = np.array(resize_image(Image.new("RGB", (100, 100), RED), (60, 90), "pad"))
    assert (tall[:, 15:75] == RED).all() and not tall[:, :15].any() and not tall[:, 75:].any()


def thirds(width, height):
    """Red, green and blue bands along the longer side."""
    array = np.zeros((height, width, 3), np.uint8)
    axis = 0 if height > width else 1
    for band, color in zip(np.array_split(np.arange(max(width, height)), 3), (RED, GREEN, BLUE), strict=True):
        array[(band,) if axis == 0 else (slice(None), band)] = color
    return Image.fromarray(array)


def test_squash_keeps_everything_and_loses_the_aspect():
    array = np.asarray(resize_image(thirds(300, 100), 60, "squash"))
    assert (array[:, 2:18] == RED).all()
    assert (array[:, 22:38] == GREEN).all()
    assert (array[:, 42:58] == BLUE).all()


def test_crop_keeps_the_square_in_the_middle():
    for image in (thirds(300, 100), thirds(100, 300)):
        assert (np.asarray(resize_image(image, 50, "crop"))[2:-2, 2:-2] == GREEN).all()


@pytest.mark.parametrize(("size", "inside"), [((300, 150), (slice(16, 48), slice(None))),
                                              ((150, 300), (slice(None), slice(16, 48)))])
def test_pad_keeps_the_aspect_between_black_borders(size, inside):
    array = np.array(resize_image(Image.new("RGB", size, RED), 64, "pad"))
    assert (array[inside] == RED).all()
    array[inside] = 0
    assert not array.any()


def test_an_image_of_the_right_size_is_not_changed(rgb):
    for resize in ("squash", "crop", "pad"):
        assert (np.asarray(resize_image(Image.fromarray(rgb[:, :32]), 32, resize)) == rgb[:, :32]).all()


def test_gray_drops_the_colour_and_keeps_the_light(rgb):
    array = np.asarray(resize_image(Image.fromarray(rgb[:, :32]), 32, channels="gray"))
    assert (array == np.asarray(Image.fromarray(rgb[:, :32]).convert("L"))[..., None]).all()


@pytest.fixture
def folder(tmp_path):
    """Good images of every format and broken ones; good/ and bad/."""
    noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    for name in ("good", "bad"):
        (tmp_path / name).mkdir()
    for name in ("rgb.jpg", "rgb.png", "rgb.bmp", "rgb.tif"):
        saved(noise, tmp_path / "good" / name)
    saved(noise, tmp_path / "good" / "progressive.jpg", progressive=True)
    saved(noise[..., 0], tmp_path / "good" / "gray.jpg")
    saved(noise[..., 0].astype(np.uint16) * 16, tmp_path / "good" / "deep.png")
    saved(Image.fromarray(noise).convert("CMYK"), tmp_path / "good" / "cmyk.jpg")
    for name in ("rgb.jpg", "progressive.jpg", "rgb.png", "rgb.bmp", "rgb.tif"):
        data = (tmp_path / "good" / name).read_bytes()
        (tmp_path / "bad" / f"half_{name}").write_bytes(data[:len(data) // 2])
        (tmp_path / "bad" / f"nearly_{name}").write_bytes(data[:-len(data) // 20])
    (tmp_path / "bad" / "empty.png").touch()
    (tmp_path / "bad" / "text.jpg").write_text("a page that says: file not found")
    return tmp_path


def test_good_images_are_passed(folder):
    paths = sorted((folder / "good").iterdir())
    assert {path.name: unreadable(path) for path in paths} == {path.name: "" for path in paths}


def test_broken_images_are_found(folder):
    assert [path.name for path in (folder / "bad").iterdir() if not unreadable(path)] == []


def test_the_reason_says_what_is_wrong(folder):
    assert "truncated" in unreadable(folder / "bad" / "half_rgb.jpg")
    assert "cannot identify" in unreadable(folder / "bad" / "text.jpg")
    assert unreadable(folder / "nothing.png") == "no such file"


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
@pytest.mark.parametrize("channels", ["rgb", "gray"])
def test_fitted_pixels_are_those_of_reading_and_fitting_with_gray_kept_in_one_channel(odd_images, resize, channels):
    shapes = {}
    for name, path in odd_images.items():
        fitted = load_pixels(path, 40, resize, channels)
        assert (fitted == np.asarray(resize_image(read_image(path), 40, resize, channels))).all(), name
        shapes[name] = fitted.shape
    color = {name for name, shape in shapes.items() if shape[2] == 3}
    assert color == ({name for name in shapes if name.startswith(("rgb", "progressive", "rotated", "cmyk", "palette",
                                                                  "lzw"))} if channels == "rgb" else set())


def test_a_color_file_that_holds_nothing_but_gray_is_kept_in_one_channel(tmp_path, gray):
    path = saved(np.stack([gray] * 3, axis=-1), tmp_path / "a.png")
    assert load_pixels(path, 16).shape == (16, 16, 1)
