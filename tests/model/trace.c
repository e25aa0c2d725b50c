/*
 * Whether what the driver did is a path of the log's model: reads records of
 * the crash test (test-vhdx-crash --record), and does each step in the model,
 * whose state is here in the sizes of a real image.  The first step of a run
 * that no rule allows is told, with the rule, the line and the state.
 *
 *   trace FILE...
 *
 * A line of a record is a trace event of the driver, or one of these:
 *
 *   seed WORKLOAD SEED
 *   image BYTES BLOCK_SIZE LOG BYTES BAT BYTES METADATA BYTES CHUNK_RATIO
 *   header COPY NUMBER LOG     before "begin" what the file has; then, what the
 *                              operation before it writes; LOG is 0 or a GUID
 *   block INDEX@MIB            a block that is present, by its BAT index
 *   replay OFFSET              a page that the log has
 *   begin LAST [early]         a run begins; LastFileOffset of a log, in MiB;
 *                              entries may be written beside their data
 *   start ID KIND OFFSET BYTES zeros|data [SECTOR REQUEST]
 *                              an operation on the file; if a guest's data is
 *                              written, from which sector on, and whose it is
 *   end ID RESULT BYTES        it ends; the file has so many bytes
 *   entry NUMBER LOG AT BYTES TAIL FLUSHED LAST PAGES
 *                              an entry of the log: the last but one in MiB
 *   logged OFFSET INDEX@MIB... a page of the entry: the blocks that are present
 *   placed OFFSET INDEX@MIB... a page that the operation puts in place
 *   zeros OFFSET BYTES         the driver has been told that this is a hole
 *   guest ID KIND SECTOR COUNT a guest's request begins
 *   done ID RESULT             it ends
 *   stop                       the run has ended
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "trace-ops.h"

enum { WORDS = 600 };

static char *words[WORDS];
static int word_count;
static unsigned runs, steps, left;

/* Word @n is a number, in decimal or with 0x. */
static uint64_t number(int n)
{
    return n < word_count ? strtoull(words[n], NULL, 0) : 0;
}

static uint64_t hex(int n)
{
    return n < word_count ? strtoull(words[n], NULL, 16) : 0;
}

static int result(int n)
{
    return n < word_count ? atoi(words[n]) : 0;
}

/* The number behind the word @name of a trace event */
static uint64_t field(const char *name)
{
    for (int i = 1; i + 1 < word_count; i++) {
        if (strcmp(words[i], name) == 0) {
            return number(i + 1);
        }
    }
    give_up("no field %s", name);
}

static int field_result(void)
{
    for (int i = 1; i + 1 < word_count; i++) {
        if (strcmp(words[i], "ret") == 0) {
            return result(i + 1);
        }
    }
    give_up("no result");
}

/* INDEX@MIB of word @n */
static int block_at(int n, int *place)
{
    const char *at = strchr(words[n], '@');

    if (!at) {
        give_up("%s is no block", words[n]);
    }
    *place = atoi(at + 1);
    return atoi(words[n]);
}

/* What a page says, from word @n on */
static const Content *page_content(int n)
{
    static Content c;

    memset(&c, 0, sizeof(c));
    for (; n < word_count; n++) {
        int place, index = block_at(n, &place);

        c.entry[index % PER_PAGE] = place + 1;
    }
    return &c;
}

/* -- What a run begins with -- */

static void places_use(uint64_t offset, uint64_t bytes)
{
    Range r = range(offset, bytes);

    for (int p = r.from; p < r.to; p++) {
        m.places[p].state = USED;
    }
}

static void image_line(void)
{
    Image *i = &t.image;

    memset(&m, 0, sizeof(m));
    memset(&t, 0, sizeof(t));
    memset(ops, 0, sizeof(ops));
    last_op = 0;
    contents_free();
    guests_forget();
    guests = GUESTS;
    places = PLACES;
    slots = SLOTS;
    blocks = sectors = 0;
    t.size = number(1);
    *i = (Image) {
        .block_size = number(2), .log_offset = number(3),
        .log_bytes = number(4), .bat_offset = number(5),
        .bat_bytes = number(6), .meta_offset = number(7),
        .meta_bytes = number(8), .ratio = number(9),
        .per_block = number(2) / MIB,
    };
    t.entry_pages = -1;
    size_learn(t.size);
    m.stable_size = m.size;
    places_use(0, MIB);
    places_use(i->log_offset, i->log_bytes);
    places_use(i->bat_offset, i->bat_bytes);
    places_use(i->meta_offset, i->meta_bytes);
}

/* The file's headers, before the run */
static void header_found(int copy, uint64_t number, uint64_t guid)
{
    if (number && (!t.first_header || number < t.first_header)) {
        t.first_header = number;
    }
    m.disk.header[copy].stable.log = log_number(guid);
    /* For now, so many below the highest one */
    m.disk.header[copy].stable.sequence = number;
}

static void header_line(void)
{
    if (t.begun) {
        header_begins(number(1), number(2), hex(3));
    } else {
        header_found(number(1), number(2), hex(3));
    }
}

static void block_line(void)
{
    int place, index = block_at(1, &place);

    page_set(index, place + 1);
    places_use(place * MIB, t.image.block_size);
}

static void replay_line(void)
{
    t.to_replay[page_at(number(1))] = true;
}

/* Pages are stable as they are. */
static void pages_are_stable(void)
{
    for (int b = 0; b < blocks; b++) {
        t.logged[b] = m.pages[b].now;
    }
}

static void begin_line(void)
{
    for (int i = 0; i < 2; i++) {
        Header *h = &m.disk.header[i].stable;

        h->sequence = h->sequence ? h->sequence - t.first_header + 1 : 0;
        if (h->sequence > m.sequence) {
            m.sequence = h->sequence;
            m.header = i;
        }
    }
    m.replaying = header_now()->log != 0;
    pages_are_stable();
    t.image.last = number(1);
    t.early = word_count > 2;
    t.begun = true;
    runs++;
}

/* The image is opened again, in the same run. */
static void open_event(void)
{
    if (!t.shown) {
        return;
    }
    if (header_now()->log) {
        /* By what a replay finds, which the record does not tell */
        left++;
        t.begun = false;
        return;
    }
    for (int b = 0; b < blocks; b++) {
        RULE(!m.pages[b].dirty && !m.pages[b].in_log, "close-applied",
             "the image is closed, and page 0x%" PRIx64 " is not in place",
             t.offsets[b]);
    }
    for (int p = 0; p < places; p++) {
        Place *place = &m.places[p];

        place->zero = false;
        if (place->state != USED) {
            place->state = p < m.size ? FREE : BEYOND;
        }
    }
    memset(m.allocs, 0, sizeof(m.allocs));
    m.order = m.barrier = m.commit_lock = m.unsure = m.no_zeroes = false;
    t.shown = false;
    size_learn(t.size);
    m.stable_size = m.size;
    pages_are_stable();
}

/* -- Lines -- */

static OpKind kind_of(const char *name)
{
    static const char *const names[] = {
        "read", "write", "zero", "discard", "truncate", "flush",
    };
    OpKind kind = 0;

    while (kind <= FLUSH_IT && strcmp(names[kind], name)) {
        kind++;
    }
    if (kind > FLUSH_IT) {
        give_up("%s is no operation", name);
    }
    return kind;
}

static void start_line(void)
{
    OpKind kind = kind_of(words[2]);

    if (kind == WRITE_DATA && strcmp(words[5], "zeros") == 0) {
        kind = WRITE_ZEROS;
    }
    op_begins(number(1), kind, number(3), number(4), number(6),
              word_count > 7 ? number(7) : -1);
}

static void guest_line(void)
{
    guest_begins(number(1), kind_of(words[2]), number(3), number(4));
}

static void done_line(void)
{
    guest_ends(number(1), result(2));
}

static void end_line(void)
{
    op_ends(number(1), result(2), number(3));
}

static void entry_line(void)
{
    entry_begins(number(1), hex(2), number(3), number(4), number(5), number(6),
                 number(7), number(8));
}

static void logged_line(void)
{
    entry_page(number(1), page_content(2));
}

static void placed_line(void)
{
    placing_begins(number(1), page_content(2));
}

static void zeros_line(void)
{
    zeros_told(number(1), number(2));
}

/* -- Trace events; the first argument is a pointer. -- */

static void state_event(void)
{
    state_changes(words[3], words[5]);
}

static void flush_event(void)
{
    flush_begins();
}

static void flush_end_event(void)
{
    flush_ends(field_result());
}

static void ring_write_event(void)
{
    entry_ends(field("SequenceNumber"), field("pages"), field_result());
}

static void ring_apply_event(void)
{
    applied(field_result());
}

static void ring_rewind_event(void)
{
    ring_rewound(field("SequenceNumber"), field_result());
}

static void checkpoint_event(void)
{
    t.checkpoint = TO_EMPTY;
}

static void commit_start_event(void)
{
    commit_begins(field("pages"), field("barrier"));
}

static void commit_early_event(void)
{
    early_begins(field("pages"));
}

static void commit_end_event(void)
{
    commit_ends(field_result());
}

static void grow_event(void)
{
    file_grows(number(5), field_result());
}

static void cut_begin_event(void)
{
    cut_begins(number(5));
}

static void cut_undo_event(void)
{
    cut_is_undone(field("size"));
}

static void return_event(void)
{
    range_returned(field("offset"), field("bytes"), field("touched"));
}

static void take_event(void)
{
    range_taken(field("offset"), field("bytes"), field("zero"));
}

static void punch_event(void)
{
    range_punched(field("offset"), field("bytes"));
}

static void alloc_event(void)
{
    alloc_begins(field("index"), field("offset"), field("zero"));
}

static void publish_event(void)
{
    alloc_published(field("index"), field("offset"));
}

static void free_event(void)
{
    block_freed(field("block"), field("offset"));
}

static void move_event(void)
{
    block_moved(field("index"), number(5), number(7));
}

static void piece_event(void)
{
    piece_moves(number(3), number(5), field("bytes"));
}

static void freeze_event(void)
{
    m.frozen = true;
}

static void thaw_event(void)
{
    m.frozen = false;
}

static void stop_line(void)
{
    t.begun = false;
}

typedef struct Line {
    const char *name;
    void (*func)(void);
} Line;

static const Line lines[] = {
    { "start", start_line },
    { "end", end_line },
    { "header", header_line },
    { "entry", entry_line },
    { "logged", logged_line },
    { "placed", placed_line },
    { "zeros", zeros_line },
    { "block", block_line },
    { "replay", replay_line },
    { "stop", stop_line },
    { "guest", guest_line },
    { "done", done_line },
    { "vhdx_open", open_event },
    { "vhdx_write_state", state_event },
    { "vhdx_file_flush", flush_event },
    { "vhdx_file_flush_end", flush_end_event },
    { "vhdx_ring_write", ring_write_event },
    { "vhdx_ring_apply", ring_apply_event },
    { "vhdx_ring_rewind", ring_rewind_event },
    { "vhdx_checkpoint", checkpoint_event },
    { "vhdx_commit_start", commit_start_event },
    { "vhdx_commit_early", commit_early_event },
    { "vhdx_commit_end", commit_end_event },
    { "vhdx_space_grow", grow_event },
    { "vhdx_space_cut_begin", cut_begin_event },
    { "vhdx_space_cut_undo", cut_undo_event },
    { "vhdx_space_return", return_event },
    { "vhdx_space_take", take_event },
    { "vhdx_space_punch", punch_event },
    { "vhdx_alloc", alloc_event },
    { "vhdx_alloc_publish", publish_event },
    { "vhdx_block_free", free_event },
    { "vhdx_move_piece", piece_event },
    { "vhdx_block_move", move_event },
    { "vhdx_freeze", freeze_event },
    { "vhdx_thaw", thaw_event },
};

static void line_read(char *line)
{
    snprintf(line_text, sizeof(line_text), "%.*s", (int)strcspn(line, "\n"),
             line);
    word_count = 0;
    for (char *word = strtok(line, "\n "); word; word = strtok(NULL, "\n ")) {
        if (word_count == WORDS) {
            give_up("more than %d words", WORDS);
        }
        words[word_count++] = word;
    }
    if (!word_count) {
        return;
    }
    if (strcmp(words[0], "seed") == 0) {
        snprintf(seed, sizeof(seed), "%s, seed %s", words[1], words[2]);
    } else if (strcmp(words[0], "image") == 0) {
        image_line();
    } else if (strcmp(words[0], "begin") == 0) {
        begin_line();
    } else if (t.begun || strncmp(words[0], "vhdx_", 5)) {
        for (size_t i = 0; i < sizeof(lines) / sizeof(*lines); i++) {
            if (strcmp(lines[i].name, words[0]) == 0) {
                steps += t.begun;
                lines[i].func();
                return;
            }
        }
        if (strncmp(words[0], "vhdx_", 5)) {
            give_up("a line that is none of a record");
        }
    }
}

static void file_read(const char *name)
{
    FILE *file = fopen(name, "r");
    static char *line;
    static size_t room;
    static bool skip;

    if (!file) {
        perror(name);
        exit(2);
    }
    file_name = name;
    line_number = 0;
    while (getline(&line, &room, file) > 0) {
        line_number++;
        skip &= strncmp(line, "image ", 6) && strncmp(line, "seed ", 5);
        if (skip) {
            continue;
        }
        if (setjmp(next_run) == 0) {
            line_read(line);
        } else {
            skip = true;
        }
    }
    fclose(file);
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        file_read(argv[i]);
    }
    printf("%u runs, %u steps, %u runs not followed to their end, "
           "%u divergences\n", runs, steps, left, divergences);
    return divergences ? 1 : runs ? 0 : 2;
}
