"""The app in the browser: jobs of many users in a fair queue, their photographs, the HTTP around them."""
