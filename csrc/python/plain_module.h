/* Opens one nn.Module through its __dict__, where that is the whole truth about its entries; and
 * the path to it. Knows the layout of nn.Module, not who walks. */
#ifndef Y5_PLAIN_MODULE_H
#define Y5_PLAIN_MODULE_H

#include "python/state.h"
#include "python/trail.h"

/* Where a walk is: the names from the root to an entry. */
typedef struct y5_path {
    const struct y5_path *parent; /* NULL at the first name */
    PyObject *name;
} y5_path;

/* Writes the dotted key, of one that is too long the end; "model" for the root, which is NULL. */
void y5_path_text(const y5_path *path, char *text, size_t size);

/* The whole dotted key as a new str; NULL with an exception. */
PyObject *y5_path_key(const y5_path *path);

/* Y5_UNSUPPORTED with the path and a reason. */
y5_status y5_refuse_module(y5_error *error, const y5_path *path, const char *why);

/* Types already found to use nn.Module's own methods: a model has a dozen of them. */
#define Y5_KNOWN_TYPES 64

/* The place of an object in a small table. */
size_t y5_slot_of(const void *object, size_t slots);

/* What a module may not override. Zero-initialise; release with y5_forget_types. */
typedef struct {
    const y5_state *state;
    y5_trail *trail; /* NULL: none */
    y5_error *error;
    int32_t first_method; /* methods first ... last - 1 must not be overridden by a type, */
    int32_t last_method;  /* nor first ... last_inner - 1 by an instance, */
    int32_t last_inner;   /* nor first ... last_outer - 1 by the root */
    int32_t last_outer;
    PyTypeObject *known_types[Y5_KNOWN_TYPES]; /* owned */
} y5_module_rules;

/* One module. All references are owned: Python code may run during a walk. */
typedef struct {
    PyObject *members;
    PyObject *parameters;
    PyObject *buffers;
    PyObject *modules;
    PyObject *non_persistent; /* NULL where empty */
} y5_node;

/* Opens a module: its dicts, once its type and its instance were found plain. The caller closes
 * `out` in any case. */
y5_status y5_open_module(y5_module_rules *rules, PyObject *module, const y5_path *path,
                         y5_node *out);

/* The same for a module of which state_dict() is wanted: hooks, hidden buffers. */
y5_status y5_open_state(y5_module_rules *rules, PyObject *module, const y5_path *path,
                        y5_node *out);

void y5_close_module(y5_node *opened);

void y5_forget_types(y5_module_rules *rules);

#endif
