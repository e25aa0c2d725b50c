"""Images with known content, for other readers to read."""
from model import Model
from script import Script

MIB = 1 << 20


def round_up(size, options):
    sector = int(options.get('logical_sector_size', 512))
    return -(-size // sector) * sector


def fill(script, block):
    """Data, zeroes and freed blocks at block edges, all over the disk."""
    size = script.model.size
    chunk = 1 << 32             # a multiple of the chunk of 512-byte sectors
    script.write(0, min(size, 100 * 1024), 11)
    script.write(size - 1024, 1024, 12)
    for i, place in enumerate((block, 2 * block, size // 2 // 512 * 512,
                               size // block * block, chunk, 2 * chunk)):
        if place < size:
            start = max(0, place - 3 * 4096)
            script.write(start, 6 * 4096 + 512, 20 + i)
            script.zero(start + 512, 1024)
    if size > 4 * block:
        much = min(block, 4 * MIB)
        script.write(3 * block, much, 30)
        script.flush()
        script.discard(3 * block, block)
        script.write(block - 512, much, 31)


def filled(ctx, name, size, **options):
    """A new image by our driver, and the model of its content."""
    path = ctx.create(name, size, **options)
    model = Model(round_up(size, options))
    block = parse_size(options.get('block_size', '8M'))
    fixed = options.get('subformat') == 'fixed'
    script = Script(model, 0 if fixed else block)
    fill(script, block)
    ctx.io(path, script.take(), '-t', 'writeback')
    return path, model


def parse_size(text):
    return int(text[:-1]) * MIB if text.endswith('M') else int(text)


def spots(model, reach=1 << 16):
    """Ranges worth reading: around all that was written, and the ends."""
    numbers = set()
    for number in model.chunks:
        numbers.update((number - 1, number, number + 1))
    last = max(0, model.size - 1) // reach
    numbers.update((0, last // 2, last))
    for number in sorted(numbers):
        if 0 <= number <= last:
            start = number * reach
            yield start, min(reach, model.size - start)
