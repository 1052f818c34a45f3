"""What the gateway keeps in a database: questions, and what is to be sent about them."""

from gateway.store.database import Database, StoreError
from gateway.store.deliveries import Deliveries, Delivery, Outbox
from gateway.store.questions import StoredQuestions

__all__ = ["Database", "Deliveries", "Delivery", "Outbox", "StoreError", "StoredQuestions"]
