// Pages opened from the disk may not read other files, so the search cannot show a few lines of each page that it finds.
if (location.protocol === "file:" && typeof DOCUMENTATION_OPTIONS !== "undefined")
  DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
