/*
 * VHDX fuzz target: changes that get behind the checksums
 *
 * libFuzzer alone would change bytes, and the driver would refuse the image
 * for its first checksum.  Here the file is made from its pieces and looked at
 * as what it is: fields of headers, region tables, metadata, BAT and log are
 * set to values that are likely to be wrong in some way, log entries are made
 * anew, and then all checksums are set right, mostly.  What is found at a
 * wrong place by a field that was changed before is taken as it is.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qemu/crc32c.h"
#include "vhdx-test-log.h"
#include "vhdx-fuzz.h"

#define HEADER(copy)    (((copy) + 1) * 64 * KiB)
#define TABLE(copy)     (((copy) + 3) * 64 * KiB)
#define TABLE_SIZE      (64 * KiB)
#define SECTOR          4096

/* The LogGuid of logs that are made here */
#define LOG_GUID        "21222324-2526-2728-292A-2B2C2D2E2F30"

/* Entries longer than this are left with the checksum they have. */
#define MAX_ENTRY       (2 * MiB)

typedef struct Field {
    uint32_t at;
    uint32_t bytes;
} Field;

static const Field header_fields[] = {
    { 0, 4 }, { 8, 8 }, { 16, 8 }, { 32, 8 }, { 48, 8 }, { 64, 2 }, { 66, 2 },
    { 68, 4 }, { 72, 8 }, { 68, 4 }, { 72, 8 }, { 8, 8 },
};
static const Field region_fields[] = {
    { 0, 8 }, { 8, 8 }, { 16, 8 }, { 24, 4 }, { 28, 4 }, { 16, 8 }, { 24, 4 },
};
static const Field item_fields[] = {
    { 0, 8 }, { 8, 8 }, { 16, 4 }, { 20, 4 }, { 24, 4 }, { 28, 4 },
    { 16, 4 }, { 20, 4 },
};
static const Field entry_fields[] = {
    { 0, 4 }, { 8, 4 }, { 12, 4 }, { 16, 8 }, { 24, 4 }, { 28, 4 }, { 32, 8 },
    { 48, 8 }, { 56, 8 },
};
static const Field desc_fields[] = {
    { 0, 4 }, { 4, 4 }, { 8, 8 }, { 16, 8 }, { 24, 8 }, { 8, 8 }, { 16, 8 },
};

static const Field locator_fields[] = {
    { 0, 8 }, { 16, 2 }, { 18, 2 }, { 18, 2 },
};
static const Field pair_fields[] = {
    { 0, 4 }, { 4, 4 }, { 8, 2 }, { 10, 2 },
};

/* Of stored dirty bitmaps: the head, and an entry of the directory */
static const Field dirty_fields[] = {
    { 12, 2 }, { 14, 2 }, { 48, 8 }, { 56, 4 }, { 60, 4 }, { 68, 4 }, { 60, 4 },
    { 68, 4 },
};
static const Field bitmap_fields[] = {
    { 0, 4 }, { 4, 1 }, { 5, 1 }, { 6, 2 }, { 8, 4 }, { 16, 2 }, { 4, 1 },
    { 8, 4 },
};

typedef struct Mutator {
    FuzzInput *in;
    CrashImage *img;            /* the file as @in has it */
    CrashRng *rng;
    /* What the file says of itself */
    uint64_t log;
    uint64_t log_length;
    uint64_t bat;
    uint64_t bat_length;
    uint64_t metadata;
    uint64_t dirty;             /* the head of dirty bitmaps, or 0 */
    uint32_t regions;
    uint32_t items;
} Mutator;

static uint64_t get(Mutator *m, uint64_t at, int bytes)
{
    uint8_t buf[8];

    image_read(m->img, at, bytes, buf);
    return get_le(buf, bytes);
}

/* Set bytes of the file, in the input too. */
static void put_bytes(Mutator *m, uint64_t at, const void *data,
                      uint32_t bytes)
{
    if (at < m->in->size && bytes <= m->in->size - at) {
        image_write(m->img, at, bytes, data);
        input_poke(m->in, at, data, bytes);
    }
}

static void put(Mutator *m, uint64_t at, uint64_t value, int bytes)
{
    uint8_t buf[8];

    put_le(buf, value, bytes);
    put_bytes(m, at, buf, bytes);
}

static void find_all(Mutator *m)
{
    uint64_t current = HEADER(get(m, HEADER(1) + 8, 8) >
                              get(m, HEADER(0) + 8, 8));
    uint64_t table = TABLE(get(m, TABLE(0), 4) == 0x69676572 ? 0 : 1);

    m->log_length = get(m, current + 68, 4);
    m->log = get(m, current + 72, 8);
    m->regions = MIN(get(m, table + 8, 4), 64);
    m->bat = m->bat_length = m->metadata = 0;
    for (uint32_t i = 0; i < m->regions; i++) {
        uint64_t entry = table + 16 + i * 32;
        uint64_t guid = get(m, entry, 4);

        if (guid == 0x2dc27766) {
            m->bat = get(m, entry + 16, 8);
            m->bat_length = get(m, entry + 24, 4);
        } else if (guid == 0x8b7ca206) {
            m->metadata = get(m, entry + 16, 8);
        }
    }
    m->items = MIN(get(m, m->metadata + 10, 2), 64);
    m->dirty = 0;
    for (unsigned i = 1; i < 128 && !m->dirty; i++) {
        if (get(m, m->metadata + i * MiB, 8) == 0x706d627864687671) {
            m->dirty = m->metadata + i * MiB;
        }
    }
}

/* Where the item with a GUID that begins with @guid is, if there is one. */
static uint64_t find_item(Mutator *m, uint32_t guid)
{
    for (uint32_t i = 0; i < m->items; i++) {
        uint64_t entry = m->metadata + 32 + i * 32;

        if (get(m, entry, 4) == guid) {
            return m->metadata + get(m, entry + 16, 4);
        }
    }
    return m->metadata + 64 * KiB;
}

/* -- Values -- */

/* An offset in the file, or behind it, that means something. */
static uint64_t some_place(Mutator *m)
{
    const uint64_t places[] = {
        0, MiB, m->log, m->bat, m->metadata, m->log + m->log_length,
        m->bat + m->bat_length, m->in->size, m->in->size - MiB,
        m->in->size / 2, (uint64_t)1 << rng_below(m->rng, 64),
        rng_below(m->rng, 64) * MiB, rng_next(m->rng),
    };
    uint64_t place = places[rng_below(m->rng, G_N_ELEMENTS(places))];

    switch (rng_below(m->rng, 4)) {
    case 0:
        return place + (rng_below(m->rng, 5) - 2) * SECTOR;
    case 1:
        return place + (rng_below(m->rng, 5) - 2) * MiB;
    default:
        return place / MiB * MiB;
    }
}

static uint64_t some_value(Mutator *m, uint64_t old)
{
    static const uint64_t values[] = {
        0, 1, 2, 3, 5, 7, 126, 127, 512, 520, 1024, 2047, 2048, 4096, 4097,
        64 * KiB, MiB, 2 * MiB, 32 * MiB, 256 * MiB, 512 * MiB, GiB,
        INT32_MAX, (uint64_t)INT32_MAX + 1, UINT32_MAX - MiB + 1, UINT32_MAX,
        (uint64_t)UINT32_MAX + 1, TiB, 64 * (uint64_t)TiB,
        64 * (uint64_t)TiB + 512, 1ULL << 62, INT64_MAX - MiB + 1, INT64_MAX,
        1ULL << 63, UINT64_MAX - MiB + 1, UINT64_MAX - 1, UINT64_MAX,
    };
    static const int64_t steps[] = {
        1, -1, 4, -4, 512, -512, SECTOR, -SECTOR, MiB, -MiB, 64 * KiB,
    };

    switch (rng_below(m->rng, 6)) {
    case 0:
        return old ^ 1ULL << rng_below(m->rng, 64);
    case 1:
        return old + steps[rng_below(m->rng, G_N_ELEMENTS(steps))];
    case 2:
        return rng_next(m->rng) >> rng_below(m->rng, 64);
    case 3:
        return some_place(m);
    default:
        return values[rng_below(m->rng, G_N_ELEMENTS(values))];
    }
}

static uint64_t some_bat_entry(Mutator *m)
{
    uint64_t entry = some_place(m) / MiB * MiB;

    /* Mostly blocks that are there, in the file */
    if (rng_chance(m->rng, 50)) {
        entry = (4 + rng_below(m->rng, 32)) * MiB;
    }
    entry |= rng_chance(m->rng, 60) ? 6 : rng_below(m->rng, 8);
    if (rng_chance(m->rng, 10)) {
        entry ^= 1ULL << rng_below(m->rng, 20);
    }
    return entry;
}

/* Change one of @count fields of a structure at @at. */
static void change_field(Mutator *m, uint64_t at, const Field *fields,
                         size_t count)
{
    const Field *f = &fields[rng_below(m->rng, count)];

    put(m, at + f->at, some_value(m, get(m, at + f->at, f->bytes)), f->bytes);
}

/* -- Checksums -- */

/* Set the checksum of the structure with @signature that stands at @at. */
static void seal_at(Mutator *m, uint64_t at, uint32_t bytes,
                    const char *signature)
{
    g_autofree uint8_t *buf = g_malloc(bytes);
    uint32_t old, crc;

    image_read(m->img, at, bytes, buf);
    if (memcmp(buf, signature, 4)) {
        return;
    }
    old = get_le(buf + 4, 4);
    put_le(buf + 4, 0, 4);
    crc = crc32c(0xffffffff, buf, bytes);
    if (crc != old) {
        put(m, at + 4, crc, 4);
    }
}

/* A log entry may go round the end of the log. */
static void seal_entry(Mutator *m, uint64_t pos)
{
    uint64_t bytes = get(m, m->log + pos + 8, 4);
    uint64_t first = MIN(bytes, m->log_length - pos);
    g_autofree uint8_t *buf = NULL;
    uint32_t old, crc;

    if (bytes < 64 || bytes > MAX_ENTRY || bytes > m->log_length) {
        return;
    }
    buf = g_malloc(bytes);
    image_read(m->img, m->log + pos, first, buf);
    image_read(m->img, m->log, bytes - first, buf + first);
    old = get_le(buf + 4, 4);
    put_le(buf + 4, 0, 4);
    crc = crc32c(0xffffffff, buf, bytes);
    if (crc != old) {
        put(m, m->log + pos + 4, crc, 4);
    }
}

/* The places in the log where entries seem to be. */
static GArray *entries_find(Mutator *m)
{
    GArray *found = g_array_new(false, false, sizeof(uint64_t));
    CrashImageIter iter;
    CrashPage *page;

    image_iter_init(&iter, m->img);
    while ((page = image_iter_next(&iter))) {
        uint64_t at = iter.index * CRASH_PAGE;

        if (at >= m->log && at - m->log < m->log_length &&
            !memcmp(page->data, "loge", 4)) {
            at -= m->log;
            g_array_append_val(found, at);
        }
    }
    return found;
}

/* A page of the metadata region that is named in the file at @at */
static uint64_t named_page(Mutator *m, uint64_t at)
{
    return m->metadata + get(m, at, 4) * SECTOR;
}

/* Set the checksum at @at of @bytes bytes at @from. */
static void seal_crc(Mutator *m, uint64_t at, uint64_t from, uint32_t bytes)
{
    g_autofree uint8_t *buf = g_malloc(bytes);
    uint32_t crc;

    image_read(m->img, from, bytes, buf);
    crc = crc32c(0xffffffff, buf, bytes);
    if (crc != get(m, at, 4)) {
        put(m, at, crc, 4);
    }
}

/* The bitmap whose entry of the directory stands at @entry */
static void seal_bitmap(Mutator *m, uint64_t entry)
{
    unsigned granularity = get(m, entry + 4, 1);
    uint64_t map = named_page(m, entry + 8), count = 0;

    if (granularity <= 31) {
        count = DIV_ROUND_UP(get(m, m->dirty + 48, 8), 32768ULL << granularity);
    }
    for (uint64_t i = 0; i < MIN(count, 64); i++) {
        if (get(m, map + i * 8, 4) > 1) {
            seal_crc(m, map + i * 8 + 4, named_page(m, map + i * 8), SECTOR);
        }
    }
    if (count <= MAX_ENTRY / 8) {
        seal_crc(m, entry + 12, map, count * 8);
    }
}

/* Dirty bitmaps, which mostly belong to what the image has now */
static void seal_dirty(Mutator *m)
{
    uint64_t current = HEADER(get(m, HEADER(1) + 8, 8) >
                              get(m, HEADER(0) + 8, 8));
    uint64_t directory = named_page(m, m->dirty + 56);
    uint32_t bytes = get(m, m->dirty + 60, 4);
    uint64_t entry = directory;

    if (rng_chance(m->rng, 80)) {
        put(m, m->dirty + 16, get(m, current + 16, 8), 8);
        put(m, m->dirty + 24, get(m, current + 24, 8), 8);
        put(m, m->dirty + 32, get(m, current + 32, 8), 8);
        put(m, m->dirty + 40, get(m, current + 40, 8), 8);
        put(m, m->dirty + 48, get(m, find_item(m, 0x2fa54224), 8), 8);
    }
    for (unsigned i = 0; i < 8 && entry - directory < bytes; i++) {
        seal_bitmap(m, entry);
        entry += get(m, entry, 4);
    }
    if (bytes <= MAX_ENTRY) {
        seal_crc(m, m->dirty + 64, directory, bytes);
    }
    put(m, m->dirty + 8, 0, 4);
    seal_crc(m, m->dirty + 8, m->dirty, SECTOR);
}

static void seal_all(Mutator *m)
{
    g_autoptr(GArray) entries = NULL;

    for (int copy = 0; copy < 2; copy++) {
        seal_at(m, HEADER(copy), 4 * KiB, "head");
        seal_at(m, TABLE(copy), TABLE_SIZE, "regi");
    }
    find_all(m);
    if (m->dirty) {
        seal_dirty(m);
    }
    entries = entries_find(m);
    for (guint i = 0; i < entries->len; i++) {
        seal_entry(m, g_array_index(entries, uint64_t, i));
    }
}

/* -- Changes: header section and metadata -- */

static void change_size(Mutator *m)
{
    uint64_t size = rng_chance(m->rng, 50) ? some_place(m) :
                    some_value(m, m->in->size);

    /* Most of what there is should stay. */
    if (size >= 5 * MiB || rng_chance(m->rng, 10)) {
        m->in->size = size;
    }
}

static void change_header(Mutator *m)
{
    int copies = rng_below(m->rng, 3);
    CrashRng same = *m->rng;

    for (int copy = 0; copy < 2; copy++) {
        if (copies == 2 || copies == copy) {
            *m->rng = same;
            change_field(m, HEADER(copy), header_fields,
                         G_N_ELEMENTS(header_fields));
        }
    }
}

/* Both copies, mostly: the first that is valid counts. */
static void change_regions(Mutator *m)
{
    int copies = rng_chance(m->rng, 70) ? 2 : rng_below(m->rng, 2);
    uint32_t i = rng_below(m->rng, m->regions + 1);
    bool count = rng_chance(m->rng, 20);
    CrashRng same = *m->rng;

    for (int copy = 0; copy < 2; copy++) {
        uint64_t table = TABLE(copy);

        if (copies != 2 && copies != copy) {
            continue;
        }
        *m->rng = same;
        if (count) {
            put(m, table + 8, rng_chance(m->rng, 50) ? m->regions + 1 :
                some_value(m, m->regions), 4);
        } else {
            change_field(m, table + 16 + i * 32, region_fields,
                         G_N_ELEMENTS(region_fields));
        }
    }
}

/* A size for the disk: what the format or the BAT allows, or another. */
static uint64_t some_disk_size(Mutator *m, uint64_t old)
{
    uint64_t block = get(m, find_item(m, 0xcaa16737), 4);
    uint64_t limit = rng_chance(m->rng, 50) ? 64 * (uint64_t)TiB :
                     m->bat_length / 8 * block;
    static const int32_t steps[] = { 0, 512, -512, 4096, MiB, -MiB, 1 };

    switch (rng_below(m->rng, 3)) {
    case 0:
        return limit + steps[rng_below(m->rng, G_N_ELEMENTS(steps))];
    case 1:
        return some_value(m, old);
    default:
        return (rng_below(m->rng, 64 * (uint64_t)TiB) >>
                rng_below(m->rng, 46)) & ~511ULL;
    }
}

static void change_metadata(Mutator *m)
{
    uint32_t i = rng_below(m->rng, m->items + 1);
    uint64_t item = m->metadata + 32 + i * 32;
    uint64_t at = m->metadata + get(m, item + 16, 4);
    unsigned what = rng_below(m->rng, 10);
    uint64_t value;

    if (what == 0) {
        put(m, m->metadata + 10, rng_chance(m->rng, 50) ? m->items + 1 :
            some_value(m, m->items), 2);
    } else if (what < 4) {
        change_field(m, item, item_fields, G_N_ELEMENTS(item_fields));
    } else if (what < 7) {
        /* The item itself: a size of blocks or sectors, or flags */
        value = rng_chance(m->rng, 60) ?
                (rng_chance(m->rng, 75) ? 1ULL : 3ULL) <<
                rng_below(m->rng, 32) :
                some_value(m, get(m, at, 4));
        put(m, at + (rng_chance(m->rng, 15) ? 4 : 0), value, 4);
    } else {
        at = find_item(m, 0x2fa54224);
        put(m, at, some_disk_size(m, get(m, at, 8)), 8);
    }
}

/* -- Changes: BAT -- */

static void change_bat(Mutator *m)
{
    uint64_t entries = m->bat_length / 8;
    uint64_t first = rng_chance(m->rng, 80) ? rng_below(m->rng, 16) :
                     rng_below(m->rng, entries + 1);
    uint64_t value = some_bat_entry(m);
    FuzzPiece *p;

    if (rng_chance(m->rng, 85)) {
        put(m, m->bat + first * 8, value, 8);
        return;
    }
    /* Many entries, with places one after the other, far apart or the same */
    p = input_add(m->in, m->bat + first * 8, &value, 8);
    p->count = 2 + (rng_below(m->rng, 1 << 17) >> rng_below(m->rng, 17));
    p->step = (rng_below(m->rng, 4) * MiB) << rng_below(m->rng, 14);
}

/* -- Changes: what a differencing image has -- */

/* Where the BAT entry of a sector bitmap block is, mostly of the first. */
static uint64_t bitmap_entry(Mutator *m)
{
    uint64_t block = get(m, find_item(m, 0xcaa16737), 4);
    uint64_t sector = get(m, find_item(m, 0x8141bf1d), 4);
    uint64_t ratio = block ? (sector << 23) / block : 0;
    uint64_t chunk = rng_chance(m->rng, 80) ? 0 : rng_below(m->rng, 6);

    return m->bat + (chunk * (ratio + 1) + ratio) * 8;
}

/* A page of a sector bitmap block, in front mostly, or of another place. */
static uint64_t bitmap_page(Mutator *m)
{
    uint64_t place = get(m, bitmap_entry(m), 8) / MiB * MiB;
    unsigned pages = rng_chance(m->rng, 80) ? 2 : MiB / SECTOR;

    return place + rng_below(m->rng, pages) * SECTOR;
}

static void change_locator(Mutator *m)
{
    uint64_t item = find_item(m, 0xa8d35f2d);
    unsigned count = MIN(get(m, item + 18, 2), 8);
    unsigned what = rng_below(m->rng, 4);

    if (what == 0) {
        change_field(m, item, locator_fields, G_N_ELEMENTS(locator_fields));
    } else if (what == 1) {
        change_field(m, item + 20 + rng_below(m->rng, count + 1) * 12,
                     pair_fields, G_N_ELEMENTS(pair_fields));
    } else {
        /* A character of a key or a value */
        item += 20 + count * 12 + rng_below(m->rng, 160) * 2;
        put(m, item, rng_chance(m->rng, 50) ? "/\\.:{}?-a"[rng_below(m->rng, 9)]
            : some_value(m, get(m, item, 2)), 2);
    }
}

/* Let there be other bits, and mostly blocks to which they mean something. */
static void change_bits(Mutator *m)
{
    static const uint64_t bits[] = {
        0, UINT64_MAX, 1, 1ULL << 63, 0x5555555555555555, 0xff00ff00ff00ff00,
    };
    uint64_t block = m->bat + rng_below(m->rng, 8) * 8;
    uint64_t at = bitmap_page(m) + rng_below(m->rng, SECTOR / 8) * 8;
    uint64_t value = rng_chance(m->rng, 70) ?
                     bits[rng_below(m->rng, G_N_ELEMENTS(bits))] :
                     rng_next(m->rng);
    FuzzPiece *p;

    if (rng_chance(m->rng, 70)) {
        put(m, block, get(m, block, 8) | 7, 8);
    }
    p = input_add(m->in, at, &value, 8);
    p->count = 1 + (rng_below(m->rng, 1 << 12) >> rng_below(m->rng, 12));
    p->step = rng_chance(m->rng, 50) ? 0 : rng_next(m->rng);
}

static void change_child(Mutator *m)
{
    uint64_t flags = find_item(m, 0xcaa16737) + 4;
    unsigned what = rng_below(m->rng, 10);

    if (what == 0) {
        put(m, flags, get(m, flags, 4) ^ 2, 4);
    } else if (what < 4) {
        change_locator(m);
    } else if (what < 6) {
        put(m, bitmap_entry(m), some_bat_entry(m), 8);
    } else {
        change_bits(m);
    }
}

/* -- Changes: dirty bitmaps -- */

static void change_dirty(Mutator *m)
{
    uint64_t head = (m->dirty - m->metadata) / SECTOR;
    uint64_t entry = named_page(m, m->dirty + 56), map;

    for (unsigned i = rng_below(m->rng, 3); i; i--) {
        entry += get(m, entry, 4);
    }
    map = named_page(m, entry + 8) + rng_below(m->rng, 4) * 8;
    switch (rng_below(m->rng, 6)) {
    case 0:
        change_field(m, m->dirty, dirty_fields, G_N_ELEMENTS(dirty_fields));
        break;
    case 1:
        /* Where the map is, or a page */
        put(m, rng_chance(m->rng, 50) ? map : entry + 8,
            rng_chance(m->rng, 50) ? rng_below(m->rng, 3) :
            head + rng_below(m->rng, 8), 4);
        break;
    case 2:
        put(m, named_page(m, map) + rng_below(m->rng, SECTOR / 8) * 8,
            rng_next(m->rng), 8);
        break;
    case 3:
        /* No head, or one elsewhere */
        put(m, m->dirty, rng_next(m->rng), 8);
        break;
    default:
        change_field(m, entry, bitmap_fields, G_N_ELEMENTS(bitmap_fields));
        break;
    }
}

/* -- Changes: log -- */

static void change_entry(Mutator *m)
{
    g_autoptr(GArray) entries = entries_find(m);
    uint64_t at;
    uint32_t descs;

    if (!entries->len) {
        return;
    }
    at = m->log + g_array_index(entries, uint64_t,
                                rng_below(m->rng, entries->len));
    descs = MIN(get(m, at + 24, 4), 4096);
    if (descs && rng_chance(m->rng, 60)) {
        change_field(m, at + 64 + rng_below(m->rng, descs) * 32, desc_fields,
                     G_N_ELEMENTS(desc_fields));
    } else if (rng_chance(m->rng, 20)) {
        /* A data sector */
        at += rng_below(m->rng, 4) * SECTOR;
        put(m, at + (rng_chance(m->rng, 50) ? 4 : SECTOR - 4),
            rng_next(m->rng), 4);
    } else {
        change_field(m, at, entry_fields, G_N_ELEMENTS(entry_fields));
    }
}

/* A page of the file, changed like what it is, for a log entry. */
static void make_update(Mutator *m, Update *u, uint8_t *page)
{
    uint64_t table = TABLE(rng_below(m->rng, 2));
    const uint64_t places[] = {
        m->bat, m->bat, m->metadata, m->metadata + 64 * KiB, table, table,
        m->bat + rng_below(m->rng, 256) * SECTOR, some_place(m),
        (4 + rng_below(m->rng, 8)) * MiB, 0, HEADER(0), HEADER(1), m->log,
        bitmap_page(m), bitmap_entry(m), find_item(m, 0xa8d35f2d),
    };
    Mutator copy = *m;

    u->offset = places[rng_below(m->rng, G_N_ELEMENTS(places))];
    if (rng_chance(m->rng, 95)) {
        u->offset &= ~(uint64_t)(SECTOR - 1);
    }
    if (rng_chance(m->rng, 25)) {
        u->page = NULL;
        u->zeros = rng_chance(m->rng, 50) ? some_value(m, SECTOR) :
                   rng_below(m->rng, 512) * SECTOR;
        return;
    }
    /* Change a copy of the file and take the page from there. */
    copy.img = image_copy(m->img);
    copy.in = input_parse(NULL, 0);
    copy.in->size = m->in->size;
    if (u->offset == table) {
        change_regions(&copy);
        seal_at(&copy, TABLE(0), TABLE_SIZE, "regi");
        seal_at(&copy, TABLE(1), TABLE_SIZE, "regi");
    } else if (u->offset - m->metadata < MiB) {
        if (rng_chance(m->rng, 70)) {
            change_metadata(&copy);
        } else {
            change_locator(&copy);
        }
    } else {
        put(&copy, u->offset + rng_below(m->rng, 16) * 8, some_bat_entry(m),
            8);
    }
    memset(page, 0, SECTOR);
    if (u->offset < INT64_MAX - SECTOR) {
        image_read(copy.img, u->offset, SECTOR, page);
    }
    image_free(copy.img);
    input_free(copy.in);
    u->page = page;
}

/* Put bytes into the log at @pos, round its end. */
static uint64_t log_put(Mutator *m, uint64_t pos, const uint8_t *data,
                        uint64_t bytes)
{
    uint64_t first = MIN(bytes, m->log_length - pos);

    put_bytes(m, m->log + pos, data, first);
    if (first < bytes) {
        put_bytes(m, m->log, data + first, bytes - first);
    }
    return (pos + bytes) % m->log_length;
}

/* A log of some entries that both headers name, or go on with one. */
static void make_log(Mutator *m)
{
    unsigned count = 1 + rng_below(m->rng, 3);
    uint64_t sectors = m->log_length / SECTOR;
    uint64_t start, pos, tail;
    EntrySpec spec = {
        .guid = LOG_GUID,
        .sequence = rng_chance(m->rng, 90) ? 1 + rng_below(m->rng, 9) :
                    some_value(m, 1),
        .flushed = MIN(m->in->size, 5 * MiB) / MiB * MiB,
        .last = DIV_ROUND_UP(m->in->size, MiB) * MiB,
    };

    if (sectors < 16 || sectors > 4 * GiB / SECTOR) {
        return;
    }
    start = rng_chance(m->rng, 50) ? 0 : rng_below(m->rng, sectors);
    pos = tail = start * SECTOR;
    for (unsigned i = 0; i < count; i++, spec.sequence++) {
        uint32_t n = rng_below(m->rng, 5);
        Update updates[4];
        uint8_t pages[4][SECTOR];
        g_autofree uint8_t *entry = NULL;
        size_t length;

        for (uint32_t j = 0; j < n; j++) {
            make_update(m, &updates[j], pages[j]);
        }
        if (rng_chance(m->rng, 30)) {
            tail = pos;
        }
        spec.tail = rng_chance(m->rng, 95) ? tail : some_value(m, tail);
        if (rng_chance(m->rng, 10)) {
            spec.last = some_place(m);
        }
        if (rng_chance(m->rng, 5)) {
            spec.flushed = some_place(m);
        }
        entry = entry_bytes(&spec, updates, n, &length);
        pos = log_put(m, pos, entry, length);
    }
    for (int copy = 0; copy < 2; copy++) {
        uint8_t guid[16];

        put_guid(guid, LOG_GUID);
        put_bytes(m, HEADER(copy) + 48, guid, sizeof(guid));
        put(m, HEADER(copy) + 64, 0, 2);
    }
}

/* An entry with very many zero descriptors, in few bytes of input */
static void make_long_entry(Mutator *m)
{
    EntrySpec spec = {
        .guid = LOG_GUID,
        .sequence = 1,
        .last = DIV_ROUND_UP(m->in->size, MiB) * MiB,
    };
    Update update = { .offset = m->bat, .zeros = SECTOR };
    uint32_t count = 126 + 128 * rng_below(m->rng, 300);
    g_autofree uint8_t *entry = NULL;
    size_t length;
    FuzzPiece *p;

    if (m->log_length < MiB ||
        (m->log_length < MAX_ENTRY && count > 126 + 128 * 250)) {
        return;
    }
    entry = entry_bytes(&spec, &update, 1, &length);
    put_le(entry + 8, (count + 2) * 32, 4);
    put_le(entry + 24, count, 4);
    log_put(m, 0, entry, 64);
    p = input_add(m->in, m->log + 64, entry + 64, 32);
    p->count = count;
    p->step_at = 16;
    p->step = rng_below(m->rng, 4) * SECTOR;
    for (int copy = 0; copy < 2; copy++) {
        uint8_t guid[16];

        put_guid(guid, LOG_GUID);
        put_bytes(m, HEADER(copy) + 48, guid, sizeof(guid));
    }
}

/* -- Changes: pieces -- */

static void change_pieces(Mutator *m)
{
    GPtrArray *pieces = m->in->pieces;
    FuzzPiece *p;

    if (!pieces->len) {
        return;
    }
    p = g_ptr_array_index(pieces, rng_below(m->rng, pieces->len));
    switch (rng_below(m->rng, 8)) {
    case 0:
        g_ptr_array_remove(pieces, p);
        break;
    case 1:
        input_add(m->in, some_place(m), p->data, p->length);
        break;
    case 2:
        p->offset = some_place(m);
        break;
    case 3:
        p->count = 1 + rng_below(m->rng, 64);
        p->step = some_value(m, 0);
        break;
    default:
        if (p->length) {
            p->length = LLVMFuzzerMutate(p->data, p->length, p->length);
        }
        break;
    }
}

void input_mutate(FuzzInput *in, CrashRng *rng)
{
    Mutator m = { .in = in, .rng = rng };
    unsigned changes = 1 + rng_below(rng, 2) * rng_below(rng, 4);

    m.img = input_image(in);
    for (unsigned i = 0; i < changes; i++) {
        unsigned what = rng_below(rng, 100);

        find_all(&m);
        if (m.dirty && rng_chance(rng, 40)) {
            change_dirty(&m);
        } else if (what < 6) {
            change_size(&m);
        } else if (what < 18) {
            change_header(&m);
        } else if (what < 32) {
            change_regions(&m);
        } else if (what < 50) {
            change_metadata(&m);
        } else if (what < 60) {
            change_bat(&m);
        } else if (what < 66) {
            change_child(&m);
        } else if (what < 76) {
            change_entry(&m);
        } else if (what < 87) {
            make_log(&m);
        } else if (what < 88) {
            make_long_entry(&m);
        } else if (what < 94) {
            change_pieces(&m);
        } else {
            in->seed = rng_next(rng);
        }
    }
    image_free(m.img);
    if (rng_chance(rng, 92)) {
        m.img = input_image(in);
        find_all(&m);
        seal_all(&m);
        image_free(m.img);
    }
}
