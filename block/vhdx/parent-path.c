/*
 * VHDX: from the parent locator to a file
 *
 * The locator comes with the image, from anywhere, and its paths are those of
 * another system.  They are tried in an order, and the first that leads to a
 * file is it, whether it fits or not:
 *
 *  1. relative_path, from the child's folder;
 *  2. absolute_win32_path, where it has a single '\' in front: nothing on
 *     Windows begins like that, so it is a path of this system;
 *  3. the last component of any, in the child's folder: a chain that was
 *     copied into one folder.  This is a guess.
 *
 * volume_path, and paths with a drive or a server, name nothing here.  A path
 * becomes a list of components before all else, so that no separator too many
 * makes an absolute path of a relative one, and is put together again behind
 * the child's folder or '/'.  So it never begins with a protocol.  A component
 * that does not exist is looked for in its folder without regard to letter
 * case, since Windows has none.
 *
 * '..' is the kernel's: the folder that a symbolic link leads to has another
 * parent than the link's own.  What lies in /dev, /proc or /sys is judged by
 * the path as it is written, too.
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include "qemu/osdep.h"
#include <glib/gstdio.h>
#include "qapi/error.h"
#include "block/block.h"
#include "block/vhdx/locator.h"
#include "block/vhdx/parent-path.h"

#ifdef _WIN32
#define realpath(path, resolved) _fullpath(resolved, path, PATH_MAX)
#endif

/* Folders that a search reads, each of which may be large */
#define FOLDERS_MAX     64

typedef struct Search {
    const VHDXLocator *loc;
    const char *child;
    char *folder;               /* the child's: "", or with '/' at its end */
    bool has_self;
    GStatBuf self;              /* the child, if it can be seen */
    unsigned folders;           /* that have been read */
    GPtrArray *names;           /* that have been tried in vain */
    GString *tried;             /* the same, with reasons, for a message */
} Search;

static bool is_separator(char c)
{
    return c == '\\' || c == '/';
}

/* The components of @path without '.', NULL if there are none */
static GStrv path_split(const char *path)
{
    g_auto(GStrv) parts = path ? g_strsplit_set(path, "\\/", -1) : NULL;
    size_t n = 0;

    for (size_t i = 0; parts && parts[i]; i++) {
        if (!parts[i][0] || !strcmp(parts[i], ".")) {
            g_free(parts[i]);
        } else {
            parts[n++] = parts[i];
        }
    }
    if (!n) {
        /* All are freed, but the list itself is not. */
        g_free(g_steal_pointer(&parts));
        return NULL;
    }
    parts[n] = NULL;
    return g_steal_pointer(&parts);
}

/* The components of relative_path, NULL where it is none */
static GStrv relative_split(const char *path)
{
    if (!path || is_separator(path[0]) ||
        (g_ascii_isalpha(path[0]) && path[1] == ':')) {
        return NULL;
    }
    return path_split(path);
}

/* The components of absolute_win32_path, NULL where it is not for us */
static GStrv absolute_split(const char *path)
{
    if (!path || path[0] != '\\' || is_separator(path[1])) {
        return NULL;
    }
    return path_split(path);
}

/* The last component of @path, alone; NULL where it is none of a file */
static GStrv last_split(const char *path)
{
    g_auto(GStrv) parts = path_split(path);
    const char *last;
    GStrv one;

    if (!parts) {
        return NULL;
    }
    last = parts[g_strv_length(parts) - 1];
    if (!strcmp(last, "..")) {
        return NULL;
    }
    one = g_new0(char *, 2);
    one[0] = g_strdup(last);
    return one;
}

/* -- Where nothing is a disk image -- */

/* Whether @path as it is written leads into /dev, /proc or /sys. */
static bool is_written_in_system(const char *path)
{
    g_autofree char *cwd = g_get_current_dir();
    g_autofree char *absolute = g_strconcat(path[0] == '/' ? "" : cwd, "/",
                                            path, NULL);
    g_auto(GStrv) parts = g_strsplit(absolute, "/", -1);
    const char *first = NULL;
    size_t depth = 0;

    for (size_t i = 0; parts[i]; i++) {
        if (!strcmp(parts[i], "..")) {
            depth -= depth > 0;
        } else if (parts[i][0] && strcmp(parts[i], ".")) {
            if (depth++ == 0) {
                first = parts[i];
            }
        }
    }
    return depth && (!strcmp(first, "dev") || !strcmp(first, "proc") ||
                     !strcmp(first, "sys"));
}

static const char in_system[] = "no parent is looked for in /dev, /proc or "
                                "/sys";

const char *vhdx_parent_path_refused(const char *path)
{
    g_autofree char *folder = g_path_get_dirname(path);
    g_autofree char *real = realpath(path, NULL);
    g_autofree char *real_folder = real ? realpath(folder, NULL) : NULL;

    if (!real || !real_folder) {
        return g_strerror(errno);
    }
    /* A link in such a folder may lead out of it. */
    return is_written_in_system(real) || is_written_in_system(real_folder) ?
           in_system : NULL;
}

/* -- Letter case -- */

/*
 * Append to @path, a folder with '/' at its end or "" for the current one, the
 * name in it that is @part but for letter case.  Returns why there is none,
 * or NULL, also with @errp set where two fit.
 */
static const char *fold_append(Search *s, GString *path, const char *part,
                               Error **errp)
{
    const char *folder = path->len ? path->str : ".";
    g_autofree char *want = g_utf8_casefold(part, -1);
    g_autofree char *found = NULL;
    g_autoptr(GDir) dir = NULL;
    const char *name;

    if (s->folders == FOLDERS_MAX) {
        return "too many directories to search";
    }
    s->folders++;
    dir = g_dir_open(folder, 0, NULL);
    if (!dir) {
        return g_strerror(ENOENT);
    }
    while ((name = g_dir_read_name(dir))) {
        g_autofree char *folded = NULL;

        if (!g_utf8_validate(name, -1, NULL)) {
            continue;
        }
        folded = g_utf8_casefold(name, -1);
        if (strcmp(folded, want)) {
            continue;
        }
        if (found) {
            error_setg(errp, "It is not clear which file is the parent of "
                       "'%s': '%s%s' and '%s%s' both match '%s' except for "
                       "letter case",
                       s->child, path->str, found, path->str, name, part);
            return NULL;
        }
        found = g_strdup(name);
    }
    if (!found) {
        return g_strerror(ENOENT);
    }
    g_string_append(path, found);
    return NULL;
}

/*
 * Append @parts to @path, each as it is where it exists, else without regard to
 * letter case.  Returns why this leads nowhere, or NULL, also with @errp set.
 */
static const char *walk(Search *s, GString *path, const GStrv parts,
                        Error **errp)
{
    ERRP_GUARD();

    for (size_t i = 0; parts[i]; i++) {
        size_t start = path->len;
        const char *reason;
        GStatBuf st;

        g_string_append(path, parts[i]);
        if (g_lstat(path->str, &st) < 0) {
            if (errno != ENOENT) {
                return g_strerror(errno);
            }
            g_string_truncate(path, start);
            reason = fold_append(s, path, parts[i], errp);
            if (reason || *errp) {
                return reason;
            }
        }
        if (parts[i + 1]) {
            g_string_append_c(path, '/');
        }
        if (path->len >= PATH_MAX) {
            return g_strerror(ENAMETOOLONG);
        }
    }
    return NULL;
}

/* -- Candidates -- */

/* Why @path can't be the parent, or NULL */
static const char *judge(Search *s, const char *path)
{
    GStatBuf st;

    if (is_written_in_system(path)) {
        return in_system;
    }
    if (g_stat(path, &st) < 0) {
        return g_strerror(errno);
    }
    if (!S_ISREG(st.st_mode)) {
        return "not a regular file";
    }
    if (s->has_self && st.st_dev == s->self.st_dev &&
        st.st_ino == s->self.st_ino) {
        return "the image itself";
    }
    return vhdx_parent_path_refused(path);
}

static bool was_tried(const Search *s, const char *name)
{
    for (guint i = 0; i < s->names->len; i++) {
        if (!strcmp(g_ptr_array_index(s->names, i), name)) {
            return true;
        }
    }
    return false;
}

/*
 * Try @parts, NULL for no candidate, from the folder @start, written as in
 * Search.  Returns the name of the file there, NULL where there is none, with
 * @errp set only where that ends the search.
 */
static char *try_parts(Search *s, const char *start, const GStrv parts,
                       Error **errp)
{
    ERRP_GUARD();
    g_autofree char *joined = parts ? g_strjoinv("/", parts) : NULL;
    g_autofree char *name = parts ? g_strconcat(start, joined, NULL) : NULL;
    g_autoptr(GString) path = g_string_new(start);
    const char *reason;

    if (!name || was_tried(s, name)) {
        return NULL;
    }
    if (strlen(name) >= PATH_MAX) {
        reason = g_strerror(ENAMETOOLONG);
    } else if (is_written_in_system(name)) {
        reason = in_system;
    } else {
        reason = walk(s, path, parts, errp);
        if (*errp) {
            return NULL;
        }
        reason = reason ?: judge(s, path->str);
    }
    if (!reason) {
        return g_strdup(path->str);
    }
    g_string_append_printf(s->tried, "%s'%s' (%s)",
                           s->tried->len ? ", " : "", name, reason);
    g_ptr_array_add(s->names, g_steal_pointer(&name));
    return NULL;
}

bool vhdx_parent_path_is_same(const char *a, const char *b)
{
    GStatBuf st_a, st_b;

    return a && b && g_stat(a, &st_a) == 0 && g_stat(b, &st_b) == 0 &&
           st_a.st_dev == st_b.st_dev && st_a.st_ino == st_b.st_ino;
}

/* -- Names as QEMU takes them -- */

/* @name, relative to the child's folder, such that it is no protocol's */
static char *relative_form(const char *name)
{
    return g_strconcat(path_has_protocol(name) ? "./" : "", name, NULL);
}

/*
 * The name of @path in the folder of the child, or, where it is in another one,
 * with that folder's real path: joined names of a chain would grow.
 */
static char *found_form(const Search *s, const char *path, bool in_folder,
                        Error **errp)
{
    g_autofree char *folder = NULL;
    g_autofree char *real = NULL;
    g_autofree char *form = NULL;

    if (in_folder) {
        form = relative_form(path + strlen(s->folder));
    } else {
        folder = g_path_get_dirname(path);
        real = realpath(folder, NULL);
        if (!real) {
            error_setg_errno(errp, errno, "Could not resolve the directory of "
                             "the parent '%s'", path);
            return NULL;
        }
        form = g_strconcat(strcmp(real, "/") ? real : "", "/",
                           strrchr(path, '/') + 1, NULL);
    }
    if (strlen(form) >= PATH_MAX) {
        error_setg(errp, "The name of the parent '%s' is longer than %d bytes",
                   form, PATH_MAX - 1);
        return NULL;
    }
    return g_steal_pointer(&form);
}

/* -- The search -- */

/* Append a key and its value, if there is one. */
static void key_append(GString *text, const char *key, const char *value)
{
    if (value) {
        g_string_append_printf(text, "%s%s is '%s'", text->len ? ", " : "",
                               key, value);
    }
}

/* Say all that is known where nothing was found, @tried being NULL or "". */
static void say_none(const VHDXLocator *loc, const char *child,
                     const char *tried, Error **errp)
{
    g_autoptr(GString) keys = g_string_new(NULL);

    key_append(keys, "relative_path", loc->relative_path);
    key_append(keys, "volume_path", loc->volume_path);
    key_append(keys, "absolute_win32_path", loc->absolute_win32_path);
    if (!tried) {
        error_setg(errp, "The image is no local file, and its parent locator "
                   "has no path from its folder: %s; give the parent as "
                   "'backing'", keys->str);
    } else {
        error_setg(errp, "Could not find the parent of '%s': %s; %s%s; put it "
                   "beside the child, give it as 'backing', or have another "
                   "path stored by 'qemu-img rebase -u -f vhdx -b PATH -F vhdx "
                   "%s'", child, keys->str,
                   tried[0] ? "tried " : "none can be tried", tried, child);
    }
}

/* The name by relative_path alone, for a child that is not here */
static char *remote_find(const VHDXLocator *loc, const char *child,
                         Error **errp)
{
    g_auto(GStrv) parts = relative_split(loc->relative_path);
    g_autofree char *name = parts ? g_strjoinv("/", parts) : NULL;
    g_autofree char *form = name ? relative_form(name) : NULL;

    if (!form || strlen(form) >= PATH_MAX) {
        say_none(loc, child, NULL, errp);
        return NULL;
    }
    return g_steal_pointer(&form);
}

/*
 * The steps 1 and 2.  Where both lead to one file, the user has given it by its
 * absolute name, which then is the one to show.
 */
static char *named_find(Search *s, Error **errp)
{
    ERRP_GUARD();
    g_auto(GStrv) relative = relative_split(s->loc->relative_path);
    g_auto(GStrv) absolute = absolute_split(s->loc->absolute_win32_path);
    g_autofree char *first = try_parts(s, s->folder, relative, errp);
    g_autofree char *second = NULL;

    if (*errp) {
        return NULL;
    }
    second = try_parts(s, "/", absolute, first ? NULL : errp);
    if (second && (!first || vhdx_parent_path_is_same(first, second))) {
        return g_steal_pointer(&second);
    }
    return first ? found_form(s, first, !relative[1], errp) : NULL;
}

/* Step 3 */
static char *guess(Search *s, Error **errp)
{
    ERRP_GUARD();
    const char *paths[] = {
        s->loc->relative_path, s->loc->volume_path,
        s->loc->absolute_win32_path
    };

    for (size_t i = 0; i < ARRAY_SIZE(paths); i++) {
        g_auto(GStrv) last = last_split(paths[i]);
        g_autofree char *found = try_parts(s, s->folder, last, errp);

        if (*errp) {
            return NULL;
        }
        if (found) {
            return found_form(s, found, true, errp);
        }
    }
    return NULL;
}

char *vhdx_parent_path_find(const VHDXLocator *loc, const char *child,
                            bool *guessed, Error **errp)
{
    ERRP_GUARD();
    Search s = { .loc = loc, .child = child };
    const char *slash;
    char *name;

    *guessed = false;
    if (!child || path_has_protocol(child)) {
        return remote_find(loc, child, errp);
    }
    slash = strrchr(child, '/');
    s.folder = g_strndup(child, slash ? slash + 1 - child : 0);
    s.has_self = g_stat(child, &s.self) == 0;
    s.names = g_ptr_array_new_with_free_func(g_free);
    s.tried = g_string_new(NULL);

    name = named_find(&s, errp);
    if (!name && !*errp) {
        name = guess(&s, errp);
        *guessed = name != NULL;
    }
    if (!name && !*errp) {
        say_none(loc, child, s.tried->str, errp);
    }
    g_free(s.folder);
    g_ptr_array_unref(s.names);
    g_string_free(s.tried, true);
    return name;
}
