/*
 * VHDX crash test: damage and repair
 *
 * An image that guests have used and closed is damaged, such that it still
 * opens and the guest's data is all there: a header copy, the region tables,
 * fields of metadata, BAT entries, more file than there are objects.  Then it
 * is repaired as "qemu-img check -r all" does, and the power is cut meanwhile.
 *
 * Each damage is a field of up to eight bytes that lie in one sector, so a torn
 * page has fields that are all right; that it was torn shows by their order, as
 * repair goes through the file from its start.  Header copies are no such
 * fields, since they are written anew all the time.
 *
 * In some images there is also a damage that no repair can mend: the entry of a
 * block says no longer that it is present, or that it has no place, or not even
 * where it is.  The block must be left where it is for somebody to find.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "vhdx-crash.h"
#include "vhdx-test-util.h"

#define HEADER          65536
#define REGION_TABLES   (3 * 65536)
#define TABLE           65536

#define BAT_RESERVED    0xffff8
#define BAT_PLACE       20
#define NOT_PRESENT     0
#define ZERO            2
#define UNMAPPED        3
#define BROKEN          4
#define UNMAPPED_DRAFT  5
#define PRESENT         6
#define LOST            BROKEN  /* without a place */

typedef struct Damaging {
    const CrashWorkload *w;
    const CrashReader *r;
    CrashImage *img;
    CrashRng *rng;
    GArray *fields;                 /* CrashDamage */
    GHashTable *entries;            /* those of the BAT that have had enough */
    uint64_t lost;                  /* offset of a block in none, or 0 */
} Damaging;

/* A number of which at least one of the bits in @mask is set, and no other. */
static uint64_t some_bits(CrashRng *rng, uint64_t mask)
{
    uint64_t bits;

    do {
        bits = rng_next(rng) & mask;
    } while (!bits);
    return bits;
}

/*
 * Put @bad in place of the @bytes bytes at @offset, of which a repair makes
 * @mended.  Returns the damage, which is its caller's until the next one.
 */
static CrashDamage *damage(Damaging *d, uint64_t offset, unsigned bytes,
                           uint64_t bad, uint64_t mended)
{
    CrashDamage new = { .offset = offset, .bytes = bytes };

    image_read(d->img, offset, bytes, new.sound);
    put_le(new.bad, bad, bytes);
    put_le(new.mended, mended, bytes);
    image_write(d->img, offset, bytes, new.bad);
    g_array_append_val(d->fields, new);
    return &g_array_index(d->fields, CrashDamage, d->fields->len - 1);
}

/* The same with a field that was right, of which @flip are other bits. */
static void damage_bits(Damaging *d, uint64_t offset, unsigned bytes,
                        uint64_t flip)
{
    uint8_t buf[8];
    uint64_t sound;

    image_read(d->img, offset, bytes, buf);
    sound = get_le(buf, bytes);
    damage(d, offset, bytes, sound ^ flip, sound);
}

/* Make the checksum of @bytes bytes at @offset right.  Returns it. */
static uint32_t image_seal(CrashImage *img, uint64_t offset, uint64_t bytes)
{
    g_autofree uint8_t *buf = g_malloc(bytes);

    image_read(img, offset, bytes, buf);
    seal(buf, bytes);
    image_write(img, offset + 4, 4, buf + 4);
    return get_le(buf + 4, 4);
}

/* One copy no longer valid, or some bytes of valid ones that must be zero. */
static void damage_headers(Damaging *d)
{
    unsigned what = rng_below(d->rng, 8);

    if (what < 4) {
        image_spoil(d->img, (1 + what % 2) * HEADER, 4096);
        return;
    }
    for (int i = 0; i < 2; i++) {
        if (what >> i & 1) {
            uint64_t at = (i + 1) * HEADER;

            image_spoil(d->img, at + 80 + rng_below(d->rng, 4000), 16);
            image_seal(d->img, at, 4096);
        }
    }
}

/* Reserved bits of a region table copy are set, and its checksum is right. */
static void damage_table_bits(Damaging *d, int copy)
{
    uint64_t at = REGION_TABLES + copy * TABLE;
    uint8_t buf[4];
    uint32_t sound, crc;

    image_read(d->img, at + 4, 4, buf);
    sound = get_le(buf, 4);
    if (rng_chance(d->rng, 50)) {
        damage_bits(d, at + 12, 4, some_bits(d->rng, UINT32_MAX));
    } else {
        damage_bits(d, at + 16 + 32 * rng_below(d->rng, 2) + 28, 4,
                    some_bits(d->rng, UINT32_MAX - 1));
    }
    crc = image_seal(d->img, at, TABLE);
    image_write(d->img, at + 4, 4, buf);
    damage(d, at + 4, 4, crc, sound);
}

/* A region table copy is not valid: there is garbage in some of its pages. */
static void damage_table(Damaging *d, int copy)
{
    uint64_t at = REGION_TABLES + copy * TABLE;

    for (uint64_t page = 0; page < TABLE; page += CRASH_PAGE) {
        if (!page || rng_chance(d->rng, 30)) {
            damage_bits(d, at + page + 8 * rng_below(d->rng, 2), 8,
                        some_bits(d->rng, UINT64_MAX));
        }
    }
}

static void damage_tables(Damaging *d)
{
    unsigned what = rng_below(d->rng, 6);
    int copy = what & 1;

    switch (what) {
    case 0:
    case 1:
        damage_table(d, copy);
        if (!d->w->small_cache && rng_chance(d->rng, 30)) {
            /* With a small cache the first copy would have both in turn. */
            damage_table_bits(d, !copy);
        }
        break;
    case 2:
        damage_table_bits(d, rng_below(d->rng, 2));
        break;
    case 3:
    case 4:
        damage_table_bits(d, 0);
        damage_table_bits(d, 1);
        break;
    default:
        break;
    }
}

/* Reserved fields and flags, from the start to the end as they are mended */
static void damage_metadata(Damaging *d)
{
    uint64_t at = d->r->meta_offset;
    uint8_t buf[32];
    unsigned count;

    image_read(d->img, at, 32, buf);
    count = get_le(buf + 10, 2);
    if (rng_chance(d->rng, 30)) {
        damage_bits(d, at + 8, 2, some_bits(d->rng, UINT16_MAX));
    }
    if (rng_chance(d->rng, 30)) {
        damage_bits(d, at + 12 + rng_below(d->rng, 13), 8,
                    some_bits(d->rng, UINT64_MAX));
    }
    for (unsigned i = 0; i < count; i++) {
        uint64_t entry = at + 32 + 32 * i;

        switch (rng_below(d->rng, 4)) {
        case 0:
            /* All but the bit that makes it a user's item */
            damage_bits(d, entry + 24, 4, some_bits(d->rng, UINT32_MAX - 1));
            break;
        case 1:
            damage_bits(d, entry + 28, 4, some_bits(d->rng, UINT32_MAX));
            break;
        default:
            break;
        }
        image_read(d->img, entry, 32, buf);
        if (guid_is(buf, GUID_FILE_PARAMETERS) && rng_chance(d->rng, 50)) {
            damage_bits(d, at + get_le(buf + 16, 4) + 4, 4,
                        some_bits(d->rng, UINT32_MAX - 3));
        }
    }
}

/* -- The BAT -- */

/* A place where no block is lost: something else's, or behind the file's end */
static uint64_t some_place(Damaging *d)
{
    const uint64_t objects[] = { d->r->log_offset, d->r->bat_offset,
                                 d->r->meta_offset };
    uint64_t end = DIV_ROUND_UP(d->img->size, MiB);
    uint64_t place = objects[rng_below(d->rng, G_N_ELEMENTS(objects))];
    GHashTableIter iter;
    guint count = 0;
    void *key;

    if (rng_chance(d->rng, 50)) {
        return (end + rng_below(d->rng, (1ULL << 44) - end)) << BAT_PLACE;
    }
    g_hash_table_iter_init(&iter, d->r->blocks);
    while (rng_chance(d->rng, 90) &&
           g_hash_table_iter_next(&iter, &key, NULL)) {
        uint64_t at = reader_block(d->r, (uintptr_t)key);

        if (at != d->lost && !rng_below(d->rng, ++count)) {
            place = at;
        }
    }
    return place;
}

/* Damage BAT entry @n such that it can be mended. */
static void damage_entry(Damaging *d, uint64_t n)
{
    uint64_t at = d->r->bat_offset + 8 * n;
    uint64_t chunk = n / (d->r->chunk_ratio + 1);
    uint64_t blocks = DIV_ROUND_UP(d->r->disk_size, d->r->block_size);
    uint64_t reserved = some_bits(d->rng, BAT_RESERVED);
    bool bitmap = n % (d->r->chunk_ratio + 1) == d->r->chunk_ratio;
    bool block = !bitmap && n - chunk < blocks;
    CrashDamage *new;
    uint8_t buf[8];
    uint64_t raw;

    if (!g_hash_table_add(d->entries, (void *)(uintptr_t)n)) {
        return;
    }
    image_read(d->img, at, 8, buf);
    raw = get_le(buf, 8);
    if (!block) {
        new = damage(d, at, 8, some_bits(d->rng, UINT64_MAX), 0);
    } else if ((raw & 7) == PRESENT) {
        new = damage(d, at, 8, raw | reserved, raw);
    } else {
        switch (rng_below(d->rng, 5)) {
        case 0:
            new = damage(d, at, 8, raw | reserved, raw);
            break;
        case 1:
            new = damage(d, at, 8, raw | some_place(d), raw);
            break;
        case 2:
            new = damage(d, at, 8, raw | some_place(d) | reserved, raw);
            break;
        case 3:
            new = damage(d, at, 8, UNMAPPED | some_place(d), UNMAPPED);
            break;
        default:
            new = damage(d, at, 8, UNMAPPED_DRAFT |
                         (rng_chance(d->rng, 50) ? reserved : 0), UNMAPPED);
        }
    }
    new->block = block ? n - chunk + 1 : 0;
}

/* The index of @block's entry. */
static uint64_t entry_of(const CrashReader *r, uint64_t block)
{
    return block + block / r->chunk_ratio;
}

/* Whether there are only zeros in the block at @place. */
static bool is_zero(Damaging *d, uint64_t place)
{
    g_autofree uint8_t *buf = g_malloc(d->r->block_size);

    image_read(d->img, place, d->r->block_size, buf);
    return buffer_is_zero(buf, d->r->block_size);
}

/* Damage the entry of a present block such that only a guess could help. */
static void damage_for_good(Damaging *d)
{
    uint64_t block = 0, place = 0;
    bool last = rng_chance(d->rng, 75);
    guint count = 0;
    GHashTableIter iter;
    CrashDamage *new;
    uint64_t bad, n;
    void *key;

    g_hash_table_iter_init(&iter, d->r->blocks);
    while (g_hash_table_iter_next(&iter, &key, NULL)) {
        uint64_t at = reader_block(d->r, (uintptr_t)key);

        if (last ? at > place : !rng_below(d->rng, ++count)) {
            block = (uintptr_t)key;
            place = at;
        }
    }
    if (!place) {
        return;
    }
    /* What was last in the file is now behind all that is known of. */
    bad = last ? LOST : place | BROKEN;
    if (rng_chance(d->rng, 30) && !is_zero(d, place)) {
        bad = place | (rng_chance(d->rng, 50) ? ZERO : NOT_PRESENT);
    }
    d->lost = place;
    n = entry_of(d->r, block);
    g_hash_table_add(d->entries, (void *)(uintptr_t)n);
    new = damage(d, d->r->bat_offset + 8 * n, 8, bad, bad);
    new->block = block + 1;
    new->kept = true;
    new->zero = (bad & 7) <= ZERO;
}

static void damage_bat(Damaging *d)
{
    uint64_t pages = d->r->bat_length / CRASH_PAGE;
    uint64_t blocks = DIV_ROUND_UP(d->r->disk_size, d->r->block_size);
    uint64_t last = entry_of(d->r, blocks - 1) * 8 / CRASH_PAGE;
    unsigned count = 1 + rng_below(d->rng, d->w->damage);
    GHashTableIter iter;
    void *key;

    g_hash_table_iter_init(&iter, d->r->blocks);
    while (g_hash_table_iter_next(&iter, &key, NULL)) {
        if (rng_chance(d->rng, 40)) {
            damage_entry(d, entry_of(d->r, (uintptr_t)key));
        }
    }
    /* One page after the other, maybe to what is behind the last block's */
    for (uint64_t page = rng_below(d->rng, last + 1); count--;
         page = (page + 1) % pages) {
        for (unsigned i = rng_below(d->rng, 4); i < 4; i++) {
            damage_entry(d, page * CRASH_PAGE / 8 +
                         rng_below(d->rng, CRASH_PAGE / 8));
        }
    }
}

/* More file than there are objects, and not all of it zeros. */
static void damage_tail(Damaging *d)
{
    uint64_t old = d->img->size;

    image_truncate(d->img, old + 512 * (1 + rng_below(d->rng, 80000)));
    for (int i = 0; i < 4; i++) {
        image_spoil(d->img, old + rng_below(d->rng, d->img->size - old), 1);
    }
}

static int compare_offsets(const void *a, const void *b)
{
    const CrashDamage *x = a, *y = b;

    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

GArray *damage_image(const CrashWorkload *w, const CrashReader *r,
                     CrashImage *img, CrashRng *rng)
{
    Damaging d = {
        .w = w,
        .r = r,
        .img = img,
        .rng = rng,
        .fields = g_array_new(false, false, sizeof(CrashDamage)),
        .entries = g_hash_table_new(NULL, NULL),
    };

    if (rng_chance(rng, 50)) {
        damage_tail(&d);
    }
    damage_headers(&d);
    damage_tables(&d);
    damage_metadata(&d);
    if (rng_chance(rng, 50)) {
        damage_for_good(&d);
    }
    damage_bat(&d);
    g_array_sort(d.fields, compare_offsets);
    g_hash_table_destroy(d.entries);
    return d.fields;
}

/* -- Repair -- */

/* Check the image, with @fix, and note what is not as it must be then. */
static void repair_check(CrashRun *run, BlockBackend *blk, int kept,
                         BdrvCheckMode fix)
{
    BdrvCheckResult result = { 0 };
    int ret = bdrv_check(blk_bs(blk), &result, fix);
    bool leaks = result.leaks && !kept && !run->node.fixed_size;

    if (ret < 0 || result.check_errors || result.corruptions != kept ||
        leaks) {
        run_wrong(run, "%s returns %d, with %d errors, %d corruptions and %d "
                  "leaks", fix ? "repair" : "check after it", ret,
                  result.check_errors, result.corruptions, result.leaks);
    }
}

CrashRun *repair_run(const CrashWorkload *w, const CrashShape *shape,
                     const CrashImage *base, const GArray *damage,
                     const CrashModel *before, const uint32_t *seen,
                     bool instant, uint64_t seed)
{
    const int flags = BDRV_O_RDWR | BDRV_O_UNMAP | BDRV_O_CHECK;
    CrashRun *run = run_new(w, image_copy(base));
    CrashDisk *disk = disk_new(image_copy(base), &run->node, seed);
    Error *err = NULL;
    BlockBackend *blk;
    int kept = 0;

    for (guint i = 0; i < damage->len; i++) {
        kept += g_array_index(damage, CrashDamage, i).kept;
    }
    disk->instant = instant;
    run->payload = disk->payload = shape->payload;
    run->model = model_new(before, seen, shape);
    run->model->first_size = shape->disk_size;
    blk = guest_open(w, flags, &err);
    if (blk) {
        repair_check(run, blk, kept, BDRV_FIX_ERRORS | BDRV_FIX_LEAKS);
        repair_check(run, blk, kept, 0);
        blk_unref(blk);
    } else {
        run_wrong(run, "does not open for repair: %s", error_get_pretty(err));
        error_free(err);
    }
    run->closed = !run->wrong->len;
    run_end(run, disk);
    model_settle(run->model);
    return run;
}
