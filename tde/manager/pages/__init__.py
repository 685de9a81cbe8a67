"""The pages, a module for each subject; in each the routes, and nothing that decides."""
