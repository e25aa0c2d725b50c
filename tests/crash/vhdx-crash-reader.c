/*
 * VHDX crash test: a second reader
 *
 * Written from the format's text alone and without a line of the driver: bytes
 * are taken apart one by one, the log is replayed into pages in memory, the
 * whole BAT is judged.  It is stricter than a reader has to be: what the driver
 * has written must be right in every field, also where others would not mind.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include "vhdx-crash-dirty.h"
#include "vhdx-test-util.h"

#define LOG_SECTOR  4096

/* So many are remembered, of log entries. */
#define MOST_VERDICTS   65536

static const uint8_t nil[16];

/* Remember what is wrong; the first finding counts. */
static bool G_GNUC_PRINTF(2, 3) wrong(char **why, const char *format, ...)
{
    if (!*why) {
        va_list ap;

        va_start(ap, format);
        *why = g_strdup_vprintf(format, ap);
        va_end(ap);
    }
    return false;
}

/* -- CRC-32C, eight bytes at a time -- */

static uint32_t crc_table[8][256];

static uint32_t crc_update(uint32_t crc, const uint8_t *p, size_t n)
{
    if (!crc_table[0][1]) {
        for (unsigned i = 0; i < 256; i++) {
            uint32_t c = i;

            for (int bit = 0; bit < 8; bit++) {
                c = c >> 1 ^ (c & 1 ? 0x82f63b78 : 0);
            }
            crc_table[0][i] = c;
        }
        for (int k = 1; k < 8; k++) {
            for (unsigned i = 0; i < 256; i++) {
                uint32_t c = crc_table[k - 1][i];

                crc_table[k][i] = c >> 8 ^ crc_table[0][c & 255];
            }
        }
    }
    for (; n >= 8; n -= 8, p += 8) {
        uint32_t low = crc ^ (p[0] | p[1] << 8 | p[2] << 16 |
                              (uint32_t)p[3] << 24);

        crc = crc_table[7][low & 255] ^ crc_table[6][low >> 8 & 255] ^
              crc_table[5][low >> 16 & 255] ^ crc_table[4][low >> 24] ^
              crc_table[3][p[4]] ^ crc_table[2][p[5]] ^
              crc_table[1][p[6]] ^ crc_table[0][p[7]];
    }
    while (n--) {
        crc = crc >> 8 ^ crc_table[0][(crc ^ *p++) & 255];
    }
    return crc;
}

uint32_t reader_crc(const uint8_t *buf, size_t bytes)
{
    return ~crc_update(~0U, buf, bytes);
}

/* Whether the checksum at byte 4 of @p is right for all @n bytes. */
static bool sealed(const uint8_t *p, size_t n)
{
    static const uint8_t zeros[4];
    uint32_t crc = crc_update(~0U, p, 4);

    crc = crc_update(crc, zeros, 4);
    crc = crc_update(crc, p + 8, n - 8);
    return ~crc == (uint32_t)get_le(p + 4, 4);
}

/* -- Headers -- */

static bool headers_read(CrashReader *r, uint8_t *current, char **why)
{
    uint8_t copy[2][4096];
    uint64_t sequence[2];
    int best;

    image_read(r->img, 0, 8, copy[0]);
    if (memcmp(copy[0], "vhdxfile", 8)) {
        return wrong(why, "no file identifier");
    }
    for (int i = 0; i < 2; i++) {
        image_read(r->img, (i + 1) * 65536, 4096, copy[i]);
        r->header_valid[i] = !memcmp(copy[i], "head", 4) &&
                             sealed(copy[i], 4096);
        sequence[i] = get_le(copy[i] + 8, 8);
        r->log_named[i] = memcmp(copy[i] + 48, nil, 16);
    }
    if (!r->header_valid[0] && !r->header_valid[1]) {
        return wrong(why, "no valid header");
    }
    best = !r->header_valid[0] ||
           (r->header_valid[1] && sequence[1] > sequence[0]);
    if (r->header_valid[0] && r->header_valid[1]) {
        r->copies_agree = !memcmp(copy[0] + 16, copy[1] + 16, 4080);
        if (sequence[0] == sequence[1]) {
            return wrong(why, "both headers have number %" PRIu64,
                         sequence[0]);
        }
    }
    memcpy(current, copy[best], 4096);
    memcpy(r->file_write, current + 16, 16);
    memcpy(r->data_write, current + 32, 16);
    r->dirty = r->log_named[best];
    r->log_length = get_le(current + 68, 4);
    r->log_offset = get_le(current + 72, 8);
    if (get_le(current + 66, 2) != 1 || get_le(current + 64, 2) != 0) {
        return wrong(why, "a header of another version");
    }
    if (!r->log_length || r->log_length % MiB || r->log_offset % MiB ||
        r->log_offset < MiB || r->log_offset + r->log_length > r->size) {
        return wrong(why, "log of %u bytes at %" PRIu64, r->log_length,
                     r->log_offset);
    }
    return true;
}

/* -- Log -- */

typedef struct Entry {
    uint32_t offset, length, tail;
    uint64_t sequence, flushed, last;
    uint32_t count;
} Entry;

/* Copy @n bytes of the log from @pos on, which may go round. */
static void log_copy(const CrashReader *r, uint64_t pos, uint64_t n,
                     uint8_t *buf)
{
    while (n) {
        uint64_t at = pos % r->log_length;
        uint64_t part = MIN(n, r->log_length - at);

        image_read(r->img, r->log_offset + at, part, buf);
        pos += part;
        buf += part;
        n -= part;
    }
}

static uint64_t table_bytes(uint64_t count)
{
    return ROUND_UP(64 + 32 * count, LOG_SECTOR);
}

/*
 * As sealed(), of the entry at @pos, which is in @buf: of pages in many states
 * of the file it is told once.
 */
static bool entry_sealed(const CrashReader *r, uint64_t pos, uint64_t length,
                         const uint8_t *buf)
{
    static GHashTable *verdicts;
    uint64_t key = length;
    void *verdict;

    for (uint64_t at = pos; at < pos + length; at += CRASH_PAGE) {
        uint64_t offset = r->log_offset + at % r->log_length;

        key = crash_mix(key + image_page_hash(r->img, offset / CRASH_PAGE));
    }
    if (!verdicts) {
        verdicts = g_hash_table_new(NULL, NULL);
    }
    if (!g_hash_table_lookup_extended(verdicts, (void *)(uintptr_t)key, NULL,
                                      &verdict)) {
        verdict = sealed(buf, length) ? verdicts : NULL;
        if (g_hash_table_size(verdicts) == MOST_VERDICTS) {
            g_hash_table_remove_all(verdicts);
        }
        g_hash_table_insert(verdicts, (void *)(uintptr_t)key, verdict);
    }
    return verdict;
}

/* Read the entry at @pos into @e and, if it is valid, its bytes into @buf. */
static bool entry_read(const CrashReader *r, const uint8_t *guid, uint32_t pos,
                       Entry *e, uint8_t *buf)
{
    uint64_t data, table;

    log_copy(r, pos, 64, buf);
    *e = (Entry) {
        .offset = pos,
        .length = get_le(buf + 8, 4),
        .tail = get_le(buf + 12, 4),
        .sequence = get_le(buf + 16, 8),
        .count = get_le(buf + 24, 4),
        .flushed = get_le(buf + 48, 8),
        .last = get_le(buf + 56, 8),
    };
    table = table_bytes(e->count);
    if (memcmp(buf, "loge", 4) || memcmp(buf + 32, guid, 16) ||
        !e->length || e->length % LOG_SECTOR || e->length > r->log_length ||
        e->tail % LOG_SECTOR || e->tail >= r->log_length || !e->sequence ||
        table > e->length) {
        return false;
    }
    log_copy(r, pos, e->length, buf);
    if (!entry_sealed(r, pos, e->length, buf)) {
        return false;
    }
    data = table;
    for (uint32_t i = 0; i < e->count; i++) {
        const uint8_t *desc = buf + 64 + 32 * i;

        if (get_le(desc + 24, 8) != e->sequence) {
            return false;
        }
        if (!memcmp(desc, "desc", 4)) {
            if (data + LOG_SECTOR > e->length ||
                memcmp(buf + data, "data", 4) ||
                (get_le(buf + data + 4, 4) << 32 |
                 get_le(buf + data + 4092, 4)) != e->sequence) {
                return false;
            }
            data += LOG_SECTOR;
        } else if (memcmp(desc, "zero", 4)) {
            return false;
        }
    }
    return data == e->length;
}

/* Let one entry take effect on the pages of the file. */
static bool entry_replay(CrashReader *r, const uint8_t *guid, const Entry *e,
                         uint8_t *buf, char **why)
{
    uint64_t data = table_bytes(e->count);
    Entry again;

    g_assert(entry_read(r, guid, e->offset, &again, buf));
    for (uint32_t i = 0; i < e->count; i++) {
        const uint8_t *desc = buf + 64 + 32 * i;
        uint64_t offset = get_le(desc + 16, 8);
        uint64_t pages = 1;
        bool zero = !memcmp(desc, "zero", 4);

        if (zero) {
            pages = get_le(desc + 8, 8) / CRASH_PAGE;
        }
        if (offset % CRASH_PAGE || offset < 3 * 65536 ||
            (offset < r->log_offset + r->log_length &&
             offset + pages * CRASH_PAGE > r->log_offset)) {
            return wrong(why, "a log entry changes offset %" PRIu64, offset);
        }
        for (uint64_t k = 0; k < pages; k++) {
            CrashPage *page = image_page_new(NULL);

            if (!zero) {
                memcpy(page->data, buf + data, CRASH_PAGE);
                memcpy(page->data, desc + 8, 8);
                memcpy(page->data + 4092, desc + 4, 4);
                data += LOG_SECTOR;
            }
            g_hash_table_replace(r->replayed, (void *)(uintptr_t)
                                 (offset / CRASH_PAGE + k), page);
        }
    }
    return true;
}

/* Replay the active sequence of the log that @guid names. */
static bool log_replay(CrashReader *r, const uint8_t *guid, char **why)
{
    g_autoptr(GArray) entries = g_array_new(false, false, sizeof(Entry));
    g_autofree uint8_t *buf = g_malloc(r->log_length);
    Entry e, *found, *next, *head = NULL, *from = NULL;

    for (uint64_t pos = 0; pos < r->log_length;) {
        if (entry_read(r, guid, pos, &e, buf)) {
            g_array_append_val(entries, e);
            pos += e.length;
        } else {
            pos += LOG_SECTOR;
        }
    }
    found = (Entry *)entries->data;
    /* Each entry in turn, if it is the last one of a run */
    for (guint i = 0; i < entries->len; i++) {
        Entry *first = &found[i];

        next = &found[(i + 1) % entries->len];
        if ((first->offset + first->length) % r->log_length == next->offset &&
            first->sequence + 1 == next->sequence) {
            continue;
        }

        for (guint n = 0; n < entries->len; n++) {
            guint k = (i + entries->len - n) % entries->len;
            Entry *before = &found[k];

            if (n && ((before->offset + before->length) % r->log_length !=
                      first->offset ||
                      before->sequence + 1 != first->sequence)) {
                break;
            }
            first = before;
            if (first->offset == found[i].tail) {
                if (!head || found[i].sequence > head->sequence) {
                    head = &found[i];
                    from = first;
                }
                break;
            }
        }
    }
    if (!head) {
        return wrong(why, "the header names a log that holds no sequence");
    }
    if (head->flushed > r->size) {
        return wrong(why, "FlushedFileOffset %" PRIu64 " in a file of %"
                     PRIu64 " bytes", head->flushed, r->size);
    }
    if (head->flushed % MiB || head->last % MiB) {
        return wrong(why, "FlushedFileOffset or LastFileOffset not aligned");
    }
    for (e = *from;; ) {
        if (!entry_replay(r, guid, &e, buf, why)) {
            return false;
        }
        if (e.offset == head->offset) {
            break;
        }
        g_assert(entry_read(r, guid, (e.offset + e.length) % r->log_length,
                            &e, buf));
    }
    r->last = head->last;
    r->size = MAX(r->size, head->last);
    return true;
}

CrashPage *reader_page(const CrashReader *r, uint64_t offset)
{
    uint64_t index = offset / CRASH_PAGE;
    CrashPage *page = g_hash_table_lookup(r->replayed,
                                          (void *)(uintptr_t)index);

    return page ?: image_page(r->img, index);
}

void reader_read(const CrashReader *r, uint64_t offset, uint64_t n,
                 uint8_t *buf)
{
    while (n) {
        uint64_t part = MIN(n, CRASH_PAGE - offset % CRASH_PAGE);
        CrashPage *page = reader_page(r, offset);

        if (page) {
            memcpy(buf, page->data + offset % CRASH_PAGE, part);
        } else {
            memset(buf, 0, part);
        }
        offset += part;
        buf += part;
        n -= part;
    }
}

/* -- Damage -- */

/* Put @n bytes in place of what the file holds after replay. */
static void file_put(CrashReader *r, uint64_t offset, uint64_t n,
                     const uint8_t *buf)
{
    uint64_t index = offset / CRASH_PAGE;
    CrashPage *old = reader_page(r, offset);
    CrashPage *page = image_page_new(old ? old->data : NULL);

    memcpy(page->data + offset % CRASH_PAGE, buf, n);
    g_hash_table_replace(r->replayed, (void *)(uintptr_t)index, page);
}

/*
 * Find out which damage is mended.  A page is mended from its start on, so a
 * field that is so behind one that is not shows that it was torn.
 */
static bool damage_undo(CrashReader *r, const GArray *damage, char **why)
{
    uint64_t left_in = UINT64_MAX;
    uint8_t buf[8];

    for (guint i = 0; damage && i < damage->len; i++) {
        const CrashDamage *d = &g_array_index(damage, CrashDamage, i);

        reader_read(r, d->offset, d->bytes, buf);
        if (!memcmp(buf, d->bad, d->bytes)) {
            r->bad++;
            if (d->block) {
                g_hash_table_insert(r->damaged,
                                    (void *)(uintptr_t)(d->block - 1),
                                    (void *)d);
            }
            if (!d->kept) {
                r->left++;
                left_in = d->offset / CRASH_PAGE;
            }
        } else if (memcmp(buf, d->mended, d->bytes)) {
            return wrong(why, "the damage at offset %" PRIu64 " has become "
                         "0x%" PRIx64, d->offset, get_le(buf, d->bytes));
        } else if (left_in == d->offset / CRASH_PAGE) {
            return wrong(why, "the damage at offset %" PRIu64 " is mended, but "
                         "not what is before it", d->offset);
        }
        file_put(r, d->offset, d->bytes, d->sound);
    }
    return true;
}

/* -- Tables -- */

static bool regions_read(CrashReader *r, char **why)
{
    g_autofree uint8_t *copies = g_malloc(2 * 65536);
    const uint8_t *entry;

    reader_read(r, 3 * 65536, 2 * 65536, copies);
    if (memcmp(copies, copies + 65536, 65536) || memcmp(copies, "regi", 4) ||
        !sealed(copies, 65536) || get_le(copies + 8, 4) != 2) {
        return wrong(why, "a damaged region table");
    }
    for (int i = 0; i < 2; i++) {
        entry = copies + 16 + 32 * i;
        if (guid_is(entry, GUID_REGION_BAT)) {
            r->bat_offset = get_le(entry + 16, 8);
            r->bat_length = get_le(entry + 24, 4);
        } else if (guid_is(entry, GUID_REGION_METADATA)) {
            r->meta_offset = get_le(entry + 16, 8);
            r->meta_length = get_le(entry + 24, 4);
        }
    }
    if (r->bat_offset < MiB || r->bat_offset % MiB || !r->bat_length ||
        r->bat_length % MiB || r->bat_offset + r->bat_length > r->size ||
        r->meta_offset < MiB || r->meta_offset % MiB || !r->meta_length ||
        r->meta_offset + r->meta_length > r->size) {
        return wrong(why, "a region is missing or out of place");
    }
    return true;
}

/*
 * Whether the log has changed nothing but what is there for it to change.  In a
 * child it may change a sector bitmap that the BAT does not name yet.
 */
static bool replay_is_fit(CrashReader *r, char **why)
{
    GHashTableIter iter;
    void *key;

    g_hash_table_iter_init(&iter, r->replayed);
    while (g_hash_table_iter_next(&iter, &key, NULL)) {
        uint64_t at = (uintptr_t)key * CRASH_PAGE;
        bool bitmap = r->has_parent && at >= MiB && !reader_owner(r, at);
        uint64_t area = r->meta_offset + ROUND_UP(r->items_end, MiB);

        /* Of dirty bitmaps nothing but the head goes through the log. */
        if (at >= area && at < r->meta_offset + r->meta_length && at % MiB) {
            return wrong(why, "the log changes offset %" PRIu64 " of the "
                         "metadata region", at - r->meta_offset);
        }
        if (!bitmap && (at < 3 * 65536 || at >= 5 * 65536) &&
            (at < r->meta_offset || at >= r->meta_offset + r->meta_length) &&
            (at < r->bat_offset || at >= r->bat_offset + r->bat_length)) {
            return wrong(why, "the log changes offset %" PRIu64, at);
        }
    }
    return true;
}

/* Text of the locator, @offset bytes behind where that is, as ASCII */
static void locator_text(CrashReader *r, uint64_t at, const uint8_t *entry,
                         char *buf, unsigned size)
{
    unsigned length = MIN(get_le(entry + 4, 2) / 2, size - 1);
    uint8_t raw[2];

    for (unsigned i = 0; i < length; i++) {
        reader_read(r, at + get_le(entry, 4) + 2 * i, 2, raw);
        buf[i] = raw[1] || !raw[0] ? '?' : raw[0];
    }
    buf[length] = 0;
}

/* Read what the Parent Locator at @at says. */
static bool locator_read(CrashReader *r, uint64_t at, char **why)
{
    uint8_t head[20], entry[12], pair[6];
    char key[32], value[64];

    reader_read(r, at, sizeof(head), head);
    for (unsigned i = 0; i < get_le(head + 18, 2); i++) {
        int linkage;

        reader_read(r, at + 20 + 12 * i, sizeof(entry), entry);
        memcpy(pair, entry, 4);
        memcpy(pair + 4, entry + 8, 2);
        locator_text(r, at, pair, key, sizeof(key));
        memcpy(pair, entry + 4, 4);
        memcpy(pair + 4, entry + 10, 2);
        locator_text(r, at, pair, value, sizeof(value));
        linkage = !strcmp(key, "parent_linkage") ? 0 :
                  !strcmp(key, "parent_linkage2") ? 1 : -1;
        if (linkage >= 0) {
            if (strlen(value) != 38 || value[0] != '{' || value[37] != '}') {
                return wrong(why, "%s is '%s'", key, value);
            }
            put_guid(r->linkage[linkage], value + 1);
        } else if (!strcmp(key, "relative_path")) {
            pstrcpy(r->parent_name, sizeof(r->parent_name),
                    g_str_has_prefix(value, ".\\") ? value + 2 : value);
        }
    }
    return true;
}

static bool metadata_read(CrashReader *r, char **why)
{
    g_autofree uint8_t *table = g_malloc(65536);
    uint8_t item[8];
    unsigned count;
    bool locator = false;

    reader_read(r, r->meta_offset, 65536, table);
    count = get_le(table + 10, 2);
    if (memcmp(table, "metadata", 8) || count > 2047) {
        return wrong(why, "a damaged metadata table");
    }
    for (unsigned i = 0; i < count; i++) {
        const uint8_t *entry = table + 32 + 32 * i;
        uint64_t end = get_le(entry + 16, 4) + get_le(entry + 20, 4);

        r->items_end = MAX(r->items_end, end);
        reader_read(r, r->meta_offset + get_le(entry + 16, 4), 8, item);
        if (guid_is(entry, GUID_FILE_PARAMETERS)) {
            r->block_size = get_le(item, 4);
            r->has_parent = get_le(item + 4, 4) & 2;
            r->fixed = get_le(item + 4, 4) & 1;
        } else if (guid_is(entry, GUID_DISK_SIZE)) {
            r->disk_size = get_le(item, 8);
        } else if (guid_is(entry, GUID_LOGICAL_SECTOR)) {
            r->sector_size = get_le(item, 4);
        } else if (guid_is(entry, GUID_PHYSICAL_SECTOR)) {
            r->physical_size = get_le(item, 4);
        } else if (guid_is(entry, GUID_DISK_ID)) {
            r->disk_id = item[0];
        } else if (guid_is(entry, GUID_PARENT_LOCATOR)) {
            locator = true;
            if (!locator_read(r, r->meta_offset + get_le(entry + 16, 4),
                              why)) {
                return false;
            }
        }
    }
    if (r->block_size < MiB || (r->block_size & (r->block_size - 1)) ||
        !r->disk_size || (r->sector_size != 512 && r->sector_size != 4096)) {
        return wrong(why, "a metadata item is missing");
    }
    if (locator != r->has_parent) {
        return wrong(why, "HasParent and the Parent Locator disagree");
    }
    r->chunk_ratio = (r->sector_size << 23) / r->block_size;
    return true;
}

/* MiB @first to @first + @count - 1 of the file are taken, by @owner. */
static void space_take(CrashReader *r, uint64_t first, uint64_t count,
                       uint64_t owner)
{
    CrashRange range = { .first = first, .count = count, .owner = owner };

    g_array_append_val(r->taken, range);
}

static int range_compare(const void *a, const void *b)
{
    const CrashRange *x = a, *y = b;

    return x->first < y->first ? -1 : x->first > y->first;
}

/* Nothing is taken twice. */
static bool space_is_fit(CrashReader *r, char **why)
{
    g_array_sort(r->taken, range_compare);
    for (guint i = 1; i < r->taken->len; i++) {
        const CrashRange *last = &g_array_index(r->taken, CrashRange, i - 1);
        const CrashRange *next = &g_array_index(r->taken, CrashRange, i);

        if (next->first < last->first + last->count) {
            return wrong(why, "what is at %" PRIu64 " MiB overlaps what is at "
                         "%" PRIu64 " MiB", next->first, last->first);
        }
    }
    return true;
}

/* Whether @need bytes that the file has for certain are at @place MiB. */
static bool place_is_fit(CrashReader *r, const char *what, uint64_t number,
                         uint64_t place, uint64_t need, char **why)
{
    if (place * MiB + need > r->size) {
        return wrong(why, "%s %" PRIu64 " at %" PRIu64 " MiB is not in the "
                     "file of %" PRIu64 " bytes", what, number, place, r->size);
    }
    if (r->last && place * MiB + need > r->last) {
        return wrong(why, "%s %" PRIu64 " at %" PRIu64 " MiB is behind "
                     "LastFileOffset %" PRIu64, what, number, place, r->last);
    }
    return true;
}

/* Judge @raw, the entry of the sector bitmap of @chunk. */
static bool bat_bitmap(CrashReader *r, uint64_t chunk, uint64_t raw,
                       char **why)
{
    uint64_t place = raw >> 20;

    if (!r->has_parent && r->img->foreign) {
        r->odd++;
        return true;
    }
    if (r->has_parent &&
        chunk * r->chunk_ratio * r->block_size >= r->disk_size) {
        r->behind++;
        return true;
    }
    if (!r->has_parent || (raw & 0xfffff) != 6 || !place) {
        return wrong(why, "the BAT entry of the bitmap of chunk %" PRIu64
                     " is 0x%" PRIx64, chunk, raw);
    }
    if (!place_is_fit(r, "bitmap", chunk, place, MiB, why)) {
        return false;
    }
    space_take(r, place, 1, 0);
    g_hash_table_insert(r->bitmaps, (void *)(uintptr_t)chunk,
                        (void *)(uintptr_t)place);
    return true;
}

/* Judge @raw, the entry of @block. */
static bool bat_block(CrashReader *r, uint64_t block, uint64_t raw,
                      char **why)
{
    uint64_t place = raw >> 20, state = raw & 7;
    uint64_t need = MIN(r->block_size, r->disk_size - block * r->block_size);
    bool partial = state == 7 && r->has_parent;
    /* Where nothing tells what the parent has, all is the image's. */
    bool odd = state == 7 && !r->has_parent && r->img->foreign;
    void *key = (void *)(uintptr_t)block;

    if ((raw & 0xffff8) || state < 1 ||
        (state > 3 && state != 6 && !partial && !odd) ||
        (state == 2 && place) ||
        (state > 3 && !place)) {
        return wrong(why, "the BAT entry of block %" PRIu64 " is 0x%" PRIx64,
                     block, raw);
    }
    r->odd += odd;
    if (state < 4) {
        g_hash_table_add(r->zeros, key);
    }
    if (!place) {
        return true;
    }
    if (!place_is_fit(r, "block", block, place, need, why)) {
        return false;
    }
    if (state < 4) {
        /* Its place is kept for it, and it reads as zeros. */
        space_take(r, place, r->block_size / MiB, 0);
        return true;
    }
    space_take(r, place, r->block_size / MiB, block + 1);
    if (partial) {
        g_hash_table_add(r->partial, key);
    }
    g_hash_table_insert(r->blocks, key, (void *)(uintptr_t)place);
    return true;
}

/* Judge page @index of the file, which is one of the BAT. */
static bool bat_page(CrashReader *r, uint64_t index, char **why)
{
    uint64_t blocks = DIV_ROUND_UP(r->disk_size, r->block_size);
    CrashPage *page = reader_page(r, index * CRASH_PAGE);

    if (!page || image_page_is_zero(page)) {
        return true;
    }
    for (int i = 0; i < CRASH_PAGE; i += 8) {
        uint64_t raw, n, chunk, block;

        memcpy(&raw, page->data + i, 8);
        if (!raw) {
            continue;
        }
        raw = get_le(page->data + i, 8);
        n = (index * CRASH_PAGE + i - r->bat_offset) / 8;
        chunk = n / (r->chunk_ratio + 1);
        block = n - chunk;
        if (n % (r->chunk_ratio + 1) == r->chunk_ratio) {
            if (!bat_bitmap(r, chunk, raw, why)) {
                return false;
            }
        } else if (block >= blocks) {
            r->behind++;
        } else if (!bat_block(r, block, raw, why)) {
            return false;
        }
    }
    return true;
}

/* Whether each block with bits for its sectors has a bitmap. */
static bool bitmaps_are_there(CrashReader *r, char **why)
{
    GHashTableIter iter;
    void *key;

    g_hash_table_iter_init(&iter, r->partial);
    while (g_hash_table_iter_next(&iter, &key, NULL)) {
        uint64_t chunk = (uintptr_t)key / r->chunk_ratio;

        if (!g_hash_table_contains(r->bitmaps, (void *)(uintptr_t)chunk)) {
            return wrong(why, "block %" PRIu64 " is partially present, but "
                         "there is no bitmap", (uint64_t)(uintptr_t)key);
        }
    }
    return true;
}

static bool bat_read(CrashReader *r, char **why)
{
    uint64_t first = r->bat_offset / CRASH_PAGE;
    uint64_t last = first + r->bat_length / CRASH_PAGE;
    CrashImageIter pages;
    GHashTableIter iter;
    void *key;

    space_take(r, 0, 1, 0);
    space_take(r, r->log_offset / MiB, r->log_length / MiB, 0);
    space_take(r, r->bat_offset / MiB, r->bat_length / MiB, 0);
    space_take(r, r->meta_offset / MiB, r->meta_length / MiB, 0);
    /* Only pages that exist: a BAT may have 131072 of them. */
    image_iter_init(&pages, r->img);
    while (image_iter_next(&pages)) {
        if (pages.index >= first && pages.index < last &&
            !g_hash_table_contains(r->replayed,
                                   (void *)(uintptr_t)pages.index) &&
            !bat_page(r, pages.index, why)) {
            return false;
        }
    }
    g_hash_table_iter_init(&iter, r->replayed);
    while (g_hash_table_iter_next(&iter, &key, NULL)) {
        if ((uintptr_t)key >= first && (uintptr_t)key < last &&
            !bat_page(r, (uintptr_t)key, why)) {
            return false;
        }
    }
    if (!space_is_fit(r, why)) {
        return false;
    }
    if (r->fixed && g_hash_table_size(r->blocks) !=
                    DIV_ROUND_UP(r->disk_size, r->block_size)) {
        return wrong(why, "only %u blocks of a fixed image have a place",
                     g_hash_table_size(r->blocks));
    }
    return bitmaps_are_there(r, why);
}

const CrashBlock *reader_find(const CrashReader *r, uint64_t block)
{
    void *key = (void *)(uintptr_t)block;
    CrashBlock *last = r->last_found;

    if (last->number != block) {
        *last = (CrashBlock) {
            .number = block,
            .place = (uint64_t)(uintptr_t)
                     g_hash_table_lookup(r->blocks, key) * MiB,
            .partial = g_hash_table_contains(r->partial, key),
        };
        last->parents = r->has_parent && !last->place &&
                        !g_hash_table_contains(r->zeros, key);
    }
    return last;
}

uint64_t reader_block(const CrashReader *r, uint64_t block)
{
    return reader_find(r, block)->place;
}

uint64_t reader_owner(const CrashReader *r, uint64_t offset)
{
    const CrashRange *found;
    uint64_t mib = offset / MiB;
    guint from = 0, end = r->taken->len;

    /* The last range that begins at @mib or before */
    while (end - from > 1) {
        guint middle = (from + end) / 2;

        if (g_array_index(r->taken, CrashRange, middle).first <= mib) {
            from = middle;
        } else {
            end = middle;
        }
    }
    found = &g_array_index(r->taken, CrashRange, from);
    return mib < found->first + found->count ? found->owner : 0;
}

uint8_t reader_bits(const CrashReader *r, uint64_t page)
{
    uint64_t n = page * CRASH_PAGE / r->sector_size;
    uint64_t in_chunk = r->chunk_ratio * (r->block_size / r->sector_size);
    uint64_t chunk = n / in_chunk, bit = n % in_chunk;
    uint64_t place = (uint64_t)(uintptr_t)
                     g_hash_table_lookup(r->bitmaps, (void *)(uintptr_t)chunk);
    CrashPage *bits = place ? reader_page(r, place * MiB + bit / 8) : NULL;
    uint8_t byte = bits ? bits->data[bit / 8 % CRASH_PAGE] : 0;

    return r->sector_size == CRASH_SECTOR ? byte :
           byte & 1 << bit % 8 ? UINT8_MAX : 0;
}

static bool bitmaps_read(CrashReader *r, char **why)
{
    r->dirty_bitmaps = dirty_read(r, why);
    return !*why;
}

CrashReader *reader_new(const CrashImage *img, const GArray *damage,
                        char **why)
{
    CrashReader *r = g_new(CrashReader, 1);
    uint8_t header[4096];

    *why = NULL;
    *r = (CrashReader) {
        .img = img,
        .size = img->size,
        .replayed = g_hash_table_new_full(NULL, NULL, NULL, image_page_unref),
        .blocks = g_hash_table_new(NULL, NULL),
        .partial = g_hash_table_new(NULL, NULL),
        .zeros = g_hash_table_new(NULL, NULL),
        .bitmaps = g_hash_table_new(NULL, NULL),
        .last_found = g_new(CrashBlock, 1),
        .taken = g_array_new(false, false, sizeof(CrashRange)),
        .damaged = g_hash_table_new(NULL, NULL),
    };
    r->last_found->number = UINT64_MAX;
    if (!headers_read(r, header, why) ||
        (r->dirty && !log_replay(r, header + 48, why)) ||
        !damage_undo(r, damage, why) || !regions_read(r, why) ||
        !metadata_read(r, why) || !bat_read(r, why) ||
        !replay_is_fit(r, why) || !bitmaps_read(r, why)) {
        reader_free(r);
        return NULL;
    }
    return r;
}

void reader_free(CrashReader *r)
{
    g_hash_table_destroy(r->replayed);
    g_hash_table_destroy(r->blocks);
    g_hash_table_destroy(r->partial);
    g_hash_table_destroy(r->zeros);
    g_hash_table_destroy(r->bitmaps);
    g_free(r->last_found);
    g_array_free(r->taken, true);
    g_hash_table_destroy(r->damaged);
    dirty_unref(r->dirty_bitmaps);
    g_free(r);
}
