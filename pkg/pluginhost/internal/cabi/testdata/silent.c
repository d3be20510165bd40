/* A library that is no plugin. */
int nothing_here(void) { return 0; }
