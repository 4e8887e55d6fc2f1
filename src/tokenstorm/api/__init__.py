"""What travels over the APIs: each request and each answer declared once, for APIs, SDK and command line alike."""
